"""What may come of each event for each call, as the contract says.

A call that has not begun when the event comes is refused; one that has is ended or goes on. So most
pairs have a line for either. "-" stands for whatever is not there to be looked at; "a|b" is one of
the two. Errors are named without their "Socket", "Stream" and so on, see `scene.Outcome`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from scene import Outcome

__all__ = ["Line", "allowed"]

TABLE = """
                                                Socket.   Reader.   Writer.
                            event     call      closed    closed    closed    peer got
close
    read gather peek pipe   done      Closed    pending   Closed    Closed    -          E4 R10
    duplex                  done      Closed    pending   Closed    Closed    all        E4
    arrival                 done      whole     pending   Closed    Closed    -          E4
    write                   done      whole     pending   -         Closed    all        E4
    write turn              done      Closed    pending   -         Closed    none       E4
    pipe-out                done      Closed    pending   -         -         none|some  E4
    pipe-out                done      whole     pending   -         -         all        E4 *
    opened early-read       done      Closed    resolves  Closed    Closed    -          E4
    early-detach            done      Closed    resolves  Closed    Closed    -          E4
    early-write             done      Closed    resolves  -         Closed    none       E4
abort
    read gather peek pipe   done      Aborted   Aborted   Aborted   Aborted   -          W5 E3
    opened early-read       done      Aborted   Aborted   Aborted   Aborted   -          W5
    early-detach            done      Aborted   Aborted   Aborted   Aborted   -          W5
    duplex                  done      Aborted   Aborted   Aborted   Aborted   none|some  W5
    arrival                 done      whole     Aborted   Aborted   Aborted   -          W5
    arrival                 done      Reset     Aborted   Aborted   Aborted   -          W5
    write pipe-out          done      Aborted   Aborted   -         Aborted   none|some  W5
    turn early-write        done      Aborted   Aborted   -         Aborted   none       W5
start_tls
    read gather peek        Busy      whole     pending   pending   pending   -          S1
    early-read              Busy      whole     pending   pending   pending   -          S1
    duplex                  Busy      whole     pending   pending   pending   all        S1
    pipe                    Busy      whole     resolves  -         resolves  -          S1
    write turn early-write  Busy      whole     pending   -         pending   all        S1
    pipe-out                Busy      whole     pending   -         -         all        S1
    read pipe early-read    done      Upgraded  resolves  Upgraded  Upgraded  -          S2 R10
    write early-write       done      Upgraded  resolves  -         Upgraded  none       S2 R10
    pipe-out                done      Upgraded  resolves  -         -         none       S2
    gather peek             Injected  Injected  Injected  Injected  Injected  -          S5
    opened arrival          done      whole     resolves  Upgraded  Upgraded  -          S4 S5
    arrival                 Injected  whole     Injected  Injected  Injected  -          S5
    early-detach            done      Upgraded  resolves  Upgraded  Upgraded  -          S2
start_tls on TLS
    read gather peek        StartTls  whole     pending   pending   pending   -          S1
    arrival                 StartTls  whole     pending   pending   pending   -          S1
    opened early-read       StartTls  whole     pending   pending   pending   -          S1
    duplex                  StartTls  whole     pending   pending   pending   all        S1
    early-detach            StartTls  whole     resolves  Closed    Closed    -          S1
    pipe                    StartTls  whole     resolves  -         resolves  -          S1
    write turn early-write  StartTls  whole     pending   -         pending   all        S1
    pipe-out                StartTls  whole     pending   -         -         all        S1
release_lock
    read gather peek        Busy      whole     pending   pending   pending   -          R6
    early-read              Busy      whole     pending   pending   pending   -          R6
    duplex                  Busy      whole     pending   pending   pending   all        R6
    write turn early-write  Busy      whole     pending   -         pending   all        R6
    read gather peek        done      Locked    pending   Locked    pending   -          R6 R10
    early-read              done      Locked    pending   Locked    pending   -          R6 R10
    duplex                  done      Locked    pending   Locked    pending   all        R6 R10
    write early-write       done      Locked    pending   -         Locked    none       R6 R10
    opened arrival          done      whole     pending   Locked    pending   -          R10
detach
    read gather peek        Busy      whole     pending   pending   pending   -
    early-read arrival      Busy      whole     pending   pending   pending   -
    duplex                  Busy      whole     pending   pending   pending   all
    pipe                    Busy      whole     resolves  -         resolves  -
    write turn early-write  Busy      whole     pending   -         pending   all
    pipe-out                Busy      whole     pending   -         -         all
    read pipe               done      Closed    resolves  Closed    Closed    -          R10
    write pipe-out          done      Closed    resolves  -         Closed    none       R10
    read pipe               done      Busy      resolves  Closed    Closed    -          *
    write pipe-out          done      Busy      resolves  -         Closed    none       *
    early-read early-write  done      whole     resolves  Closed    Closed    all        *
    opened arrival          done      whole     resolves  Closed    Closed    -
    early-detach            Closed    whole     resolves  Closed    Closed    -
    early-detach            done      Closed    resolves  Closed    Closed    -
cancel
    read gather peek        done      EOF       pending   resolves  pending   -          R7 R10
    pipe early-read         done      EOF       pending   resolves  pending   -          R7 R10
    duplex                  done      EOF       pending   resolves  pending   all        R7 R10
    write turn early-write  done      whole     pending   -         pending   all        R7
    pipe-out                done      whole     pending   -         -         all        R7
    opened arrival          done      whole     pending   resolves  pending   -          R7
Writer.close
    read gather peek        done      whole     pending   pending   resolves  -          W3 R10
    opened early-read       done      whole     pending   pending   resolves  -          W3 R10
    arrival                 done      whole     pending   pending   resolves  -          W3
    duplex                  done      whole     pending   pending   resolves  all        W3 R10
    pipe                    done      whole     resolves  -         resolves  -          W3 E3
    write early-write       done      whole     pending   -         resolves  all        W3
    write turn early-write  done      Closed    pending   -         resolves  none       W3
    pipe-out                done      Closed    pending   -         -         none|some  W3
    pipe-out                done      whole     pending   -         -         all        W3 *
drop
    read gather peek        done      whole     pending   Closed    Closed    -          E6
    read gather             done      whole     pending   Locked    Closed    -          E6
    opened early-read       done      whole     pending   Closed    Closed    -          E6 O8
    arrival                 done      whole     pending   Closed    Closed    -          E6
    duplex                  done      whole     pending   Closed    Closed    all        E6
    pipe                    done      whole     resolves  -         Closed    -          E6
    pipe                    done      whole     resolves  -         resolves  -          E1
    write turn early-write  done      whole     pending   -         Closed    all        E6
    pipe-out                done      whole     pending   -         -         all        E6
data
    read                    done      some      pending   pending   pending   -          R2 R3
    duplex                  done      some      pending   pending   pending   all        R2 R3
    read gather peek        done      whole     pending   pending   pending   -          R3
    duplex                  done      whole     pending   pending   pending   all        R3
    pipe                    done      whole     resolves  -         resolves  -          R3
    write turn              done      whole     pending   -         pending   all        R1
    pipe-out                done      whole     pending   -         -         all        R1
FIN, FIN after data
    write early-write       done      whole     resolves  -         resolves  all        E1
    write turn early-write  done      Lost      resolves  -         resolves  none       E1
    pipe-out                done      Lost      resolves  -         -         none|some  E1
    pipe-out                done      whole     resolves  -         -         all        E1 *
    opened                  done      whole     resolves  pending   resolves  -          E1
FIN
    read gather early-read  done      EOF       resolves  resolves  resolves  -          E1 R10
    peek                    done      EOF       resolves  pending   resolves  -          E1
    duplex                  done      EOF       resolves  resolves  resolves  all        E1 R10
    pipe                    done      EOF       resolves  -         resolves  -          E1
FIN after data
    read gather peek        done      whole     resolves  pending   resolves  -          E1 R3
    pipe early-read         done      whole     resolves  pending   resolves  -          E1 R3
    duplex                  done      whole     resolves  pending   resolves  all        E1 R3
RST, RST after data
    write turn early-write  done      Lost      Lost      -         Lost      none       E3 R10
    early-write             done      whole     Lost      -         Lost      none       W1
    pipe pipe-out           done      Lost      Lost      -         -         -          R9
    opened                  done      whole     Lost      Lost      Lost      -          E3 R10
    opened early-read       done      Connect   Connect   Connect   Connect   -          O3
    early-write             done      Connect   Connect   -         Connect   none       O3
RST
    read gather peek        done      Lost      Lost      Lost      Lost      -          R9
    early-read              done      Lost      Lost      Lost      Lost      -          R9
    duplex                  done      Lost      Lost      Lost      Lost      none       R9
RST after data
    read gather peek        done      whole     Lost      Lost      Lost      -          R9
    early-read              done      whole     Lost      Lost      Lost      -          R9
    duplex                  done      whole     Lost      Lost      Lost      none       R9
"""
# (*) Comes if more than one thread is held up, or if the kernel has taken all but the last chunk.


class Line(NamedTuple):
    """One outcome that is allowed."""

    outcome: Outcome
    rules: str

    def fits(self, outcome: Outcome) -> bool:
        """Whether this is it."""
        return all(
            "-" in (said, seen) or seen in said.split("|")
            for said, seen in zip(self.outcome, outcome, strict=True)
        )


def allowed(event: str, kind: str) -> list[Line]:
    """The lines for an event that comes to a call of that kind."""
    lines, events = [], [""]
    for text in TABLE.splitlines()[3:]:
        if not text.startswith(" "):
            events = text.split(", ")
            continue
        kinds, *words = re.split("  +", text.strip())
        if event in events and kind in kinds.split(" "):
            lines.append(Line(Outcome(*words[:6]), "".join(words[6:])))
    return lines
