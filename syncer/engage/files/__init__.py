"""Files of Segment: lists of audiences and traits, and logs of calls, wherever they are kept."""
