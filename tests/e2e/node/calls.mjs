// Calls of analytics-node against $RECEIVER; prints what it made of each as one JSON array.
import { Analytics } from '@segment/analytics-node'

const analytics = new Analytics({
  writeKey: process.env.WRITE_KEY,
  host: process.env.RECEIVER,
  flushAt: 4,
})
const events = []
const errors = []
analytics.on('error', (error) => errors.push(error))
const note = (error, context) => (error ? errors.push(error) : events.push(context.event))

for (const [kind, call] of JSON.parse(process.env.CALLS)) analytics[kind](call, note)
await analytics.closeAndFlush()
if (errors.length) throw errors[0]
console.log(JSON.stringify(events))
