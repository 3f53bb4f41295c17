/* One membership of one customer, from Segment Engage to Amberflo: what docs/model.md describes.
 *
 * Engage's word is a version: 0 at first, one more with each change. Its value is the last bit, so
 * odd versions are "in the audience" and even ones are exits. A set of versions is a byte of bits.
 *
 *     spin -a membership.pml && cc -O2 -DNFAIR=3 -o pan pan.c
 *     ./pan -a -m400000 -N safe && ./pan -a -f -m400000 -N converges
 *
 * With spin -DPLANT=1 to 9 one rule is left out, and a property fails.
 *
 *     spin -n7 -u250 -T membership.pml | grep TRACE
 *
 * prints the steps of one order, each with what is so after it, as tests/support/spin.py reads them.
 */

#ifndef LAST
#define LAST 2        /* the newest version that Engage comes to */
#endif
#ifndef CRASHES
#define CRASHES 1     /* how often something is killed, all together */
#endif
#ifndef PLANT
#define PLANT 0
#endif
#define LATE_CALLS_PASS_A_REJECTION  (PLANT == 1)
#define HOLDS_WHAT_A_CALL_APPLIED    (PLANT == 2)
#define PULL_BEATS_ANY_CALL          (PLANT == 3)
#define CALLS_COUNT_AS_THEY_COME     (PLANT == 4)
#define ANSWERS_BEFORE_THE_COMMIT    (PLANT == 5)
#define FREES_THE_CLAIM_OF_THE_LIVING (PLANT == 6)
#define ACKNOWLEDGES_THE_NEWEST      (PLANT == 7)
#define RUNS_SIDE_BY_SIDE            (PLANT == 8)
#define THE_DEAD_KEEP_THEIR_CLAIM    (PLANT == 9)

#if PLANT == 8
#define RUNS 2
#else
#define RUNS 1        /* a second one waits for the lock */
#endif

#define bit_of(version) (1 << (version))
#define value_of(version) ((version) & 1)

mtype = { changes, loads, accepts, loses, processes, pulls, commits, run_dies, rejects, begins_approval,
          approves, claims, puts, acknowledges, dies_before_put, dies_after_put }

/* Segment */
byte engage, loaded;        /* the newest version there, and in the warehouse */
byte sent;                  /* calls on their way: may be lost, late, and come twice */

/* The state: durable, each step on it is one transaction */
byte known;                 /* the version that the customer shall have at Amberflo */
bool by_call;               /* a call said it, and no pull has confirmed it */
byte rev, acked_rev;        /* changes made, and the last that Amberflo acknowledged */
byte claimed_by;            /* the worker that has the customer in work; 0 is none */
byte inbox;                 /* calls that were accepted and not processed */
byte held, rejected;        /* the exit that waits for a decision, or stays out; 0 is none */
bool run_goes_on;           /* the lock of a run */

/* Amberflo */
bool amberflo;

/* What only the properties look at */
byte answered, processed;   /* calls that got their 200, and calls that were processed */
byte kept_back;             /* exits that a hold keeps back, or that somebody rejected */
byte crashes;
bool writing[3];            /* a worker's PUT is on its way */

inline crash() { crashes < CRASHES; crashes++ }

/* A simulation prints what was done, and what is so now. */
inline tell(step, version) {
    printf("TRACE %d %e %d known=%d by_call=%d due=%d inbox=%d held=%d rejected=%d amberflo=%d\n", _pid, step,
           version, known, by_call, acked_rev != rev, inbox, held, rejected, amberflo)
}

/* The customer shall have what a version says. */
inline change_to(version, from_call) {
    assert(version >= known);
    if
    :: value_of(version) != value_of(known) -> rev++
    :: else
    fi;
    known = version; by_call = from_call
}

active proctype Engage() {
    do
    :: atomic { engage < LAST -> engage++; sent = sent | bit_of(engage);
                tell(changes, engage) }
    :: engage == LAST -> break
    od
}

active proctype Loader() {
    do
    :: atomic { loaded < engage -> loaded++; tell(loads, loaded) }
    :: loaded == LAST -> break
    od
}

/* The receiver: a call is in the inbox before it is answered. */
active proctype Receiver() {
    byte call;
    do
    :: atomic { sent != 0 ->
           if
           :: sent & bit_of(1) -> call = 1
           :: sent & bit_of(2) -> call = 2
           :: sent & bit_of(3) -> call = 3
           fi;
           /* It is sent again until it is answered, and now and then once more. */
           if
           :: sent = sent & ~bit_of(call)
           :: skip
           fi }
       if
       :: ANSWERS_BEFORE_THE_COMMIT -> answered = answered | bit_of(call)
       :: else
       fi;
       if
       :: atomic { inbox = inbox | bit_of(call); answered = answered | bit_of(call);
                   tell(accepts, call) }
       :: atomic { crash() -> tell(loses, call) }
       fi
    :: atomic { sent != 0 -> sent = 0 }       /* what was on its way is lost */
    :: atomic { sent == 0 && engage == LAST -> break }
    od
}

/* The processor of calls: one transaction takes a call out of the inbox and applies it. */
active proctype Processor() {
    byte call;
end:
    do
    :: atomic { inbox != 0 ->
           if
           :: inbox & bit_of(1) -> call = 1
           :: inbox & bit_of(2) -> call = 2
           :: inbox & bit_of(3) -> call = 3
           fi;
           inbox = inbox & ~bit_of(call); processed = processed | bit_of(call);
           if
           :: call < known && !CALLS_COUNT_AS_THEY_COME                     /* older */
           :: else ->
               if
               :: held && call <= held                                      /* held */
               :: rejected && call <= rejected && !LATE_CALLS_PASS_A_REJECTION
               :: else -> held = 0; rejected = 0; change_to(call, true)
               fi
           fi;
           tell(processes, call);
           call = 0 }
    od
}

/* A run: it reads one moment of the warehouse, compares, and commits what goes through. */
active [RUNS] proctype Run() {
    byte pulled, seen, guarded;
end:
    do
    :: atomic { (!run_goes_on || RUNS_SIDE_BY_SIDE) && (loaded != known || held || rejected) ->
           run_goes_on = true; pulled = loaded; seen = known; guarded = 0;
           tell(pulls, pulled) }
       /* The guard judges the change between the two. An exit may be one of too many. */
       if
       :: pulled > seen && value_of(pulled) == 0 && value_of(seen) == 1 ->
           if
           :: guarded = 1           /* the others are judged along with it, so either may be */
           :: guarded = 0
           fi
       :: else
       fi;
       if
       :: atomic {
           if
           :: value_of(pulled) == value_of(seen)           /* it changes nothing, and leaves no time */
           :: pulled == known && !HOLDS_WHAT_A_CALL_APPLIED -> by_call = false
           :: pulled < known && by_call && !PULL_BEATS_ANY_CALL          /* the call is newer */
           :: (guarded || held == pulled || rejected == pulled) &&
              (pulled > known || HOLDS_WHAT_A_CALL_APPLIED) ->
               kept_back = kept_back | bit_of(pulled);
               if
               :: rejected == pulled                     /* it stays rejected */
               :: else -> held = pulled; rejected = 0
               fi
           :: else -> change_to(pulled, false)
           fi;
           if
           :: held != pulled -> held = 0        /* Engage does not say it any more */
           :: else
           fi;
           if
           :: rejected != pulled -> rejected = 0
           :: else
           fi;
           tell(commits, guarded);
           run_goes_on = false; pulled = 0; seen = 0; guarded = 0 }
       :: atomic { crash() -> tell(run_dies, pulled);
                   run_goes_on = false; pulled = 0; seen = 0; guarded = 0 }
       fi
    od
}

/* Somebody decides on what is held, or does not. An approval is a run of its own. */
active proctype Operator() {
    byte approved;
end:
    do
    :: atomic { held && !run_goes_on -> rejected = held; held = 0; tell(rejects, rejected) }
    :: atomic { held && !run_goes_on -> run_goes_on = true; approved = held;
                tell(begins_approval, approved) }
       atomic {
           if
           :: held == approved && loaded == approved ->
               kept_back = kept_back & ~bit_of(approved); held = 0; change_to(approved, false)
           :: else                              /* Engage, or somebody, says something else */
           fi;
           tell(approves, approved);
           run_goes_on = false; approved = 0 }
    od
}

/* Others find a dead worker by its lock, and free what it claimed. */
inline found_dead() {
    if
    :: THE_DEAD_KEEP_THEIR_CLAIM
    :: else -> claimed_by = 0
    fi
}

/* A worker that delivers: claim, write, acknowledge. */
active [2] proctype Worker() {
    byte me, claimed_rev, claimed;
    me = _pid - (4 + RUNS);
end:
    do
    :: atomic { acked_rev != rev && claimed_by == 0 ->
           claimed_by = me; claimed_rev = rev; claimed = known;
           tell(claims, claimed) }
       atomic { writing[me] = true }
       if
       :: atomic {                              /* the PUT arrives */
           assert(!(kept_back & bit_of(claimed)));
           amberflo = value_of(claimed); writing[me] = false;
           tell(puts, claimed) }
           if
           :: atomic {                          /* its answer, too */
               if
               :: ACKNOWLEDGES_THE_NEWEST -> acked_rev = rev
               :: else -> acked_rev = claimed_rev
               fi;
               claimed_by = 0; tell(acknowledges, claimed) }
           :: atomic { crash() -> found_dead(); tell(dies_after_put, claimed) }
           fi
       :: atomic { crash() -> found_dead(); writing[me] = false; tell(dies_before_put, claimed) }
       fi;
       claimed = 0; claimed_rev = 0
    :: atomic { FREES_THE_CLAIM_OF_THE_LIVING && claimed_by != 0 && claimed_by != me -> claimed_by = 0 }
    od
}

/* Always: who got a 200 finds the call in the inbox, or processed; what counts as acknowledged is at
 * Amberflo. (What a hold keeps back is not written: the assertion in Worker. No older word takes the
 * place of a newer one: the assertion in change_to.) */
ltl safe {
    [] ((answered & ~(inbox | processed)) == 0 &&
        ((acked_rev == rev && !writing[1] && !writing[2]) -> (amberflo == value_of(known))))
}

/* At last Amberflo has what Engage says, or somebody was asked. */
ltl converges {
    <> [] (amberflo == value_of(engage) || held == engage || rejected == engage)
}
