"""Readers whose verdicts are known beforehand, over all claims that tell them apart.

What each would measure follows from what it is, not from a model:

    whole     what follows m is the mixture of what follows its tokens: P(.|m) = q
    top       what follows m is what follows its heaviest token
    unsure    the same, but flattened to the entropy that q has: no runner-up in it
    deaf      reads a token's row; between the rows it hears nothing, and what follows
              is the same whatever it is fed. What the write-up takes models to be
    ids       reads ids by a second track; in a vector, be it a token's own row, it
              finds none, and what follows is the same whatever it is fed

All of them write alike: the first concept token comes from text, which all read.
"""

import pytest

from experiments.stats import Estimate
from harness import claims, judge, wording
from harness.clauses import VERDICTS

# For `ids` a token's row and a mixture of rows lead to the same: no prompt and no pair
# tells top token and mixture apart, and a reason takes the numbers' place.
NOTHING = "nothing to tell apart"

# The top token's prediction alone scores .8 on R1's scale (0: another prompt's concept,
# 1: q), so that .2 is left to win by the runners-up; flattened, it wins half of that.
R1 = {
    "whole": ({"score": 1.0, "gain": 0.2, "gain_flat": 0.1}, "not reproduced"),
    "top": ({"score": 0.8, "gain": 0.0, "gain_flat": 0.0}, "partly"),
    "unsure": ({"score": 0.9, "gain": 0.1, "gain_flat": 0.0}, "partly"),
    # m and another prompt's m lead to the same: as far from q as the floor
    "deaf": ({"score": 0.0, "gain": -0.8, "gain_flat": -0.9}, "reproduced"),
    "ids": (NOTHING, "not tested"),
}
# Recall of the top token's content: .9 of it comes back as text. Answers are shorter
# than the frame: the cut leaves nothing. R2 cannot tell whole from top: R1 does.
HEARD = {"ceiling": 0.9, "floor": 0.1, "recall": 0.9, "recall_sliced": 0.0}
R2 = {
    "whole": (HEARD, "artefact"),
    "top": (HEARD, "artefact"),
    "unsure": (HEARD, "artefact"),  # greedy: only the likeliest answer counts
    "deaf": (HEARD | {"recall": 0.1}, "reproduced"),
    "ids": (HEARD | {"recall": 0.1, "ceiling": 0.1}, "not tested"),  # frame unread
}
# Both sides over the top token alone. Reading: R1's gain over the .2 left to win.
R6 = {
    "whole": ({"write": 0.9, "read": 1.0}, "not reproduced"),
    "top": ({"write": 0.9, "read": 0.0}, "reproduced"),  # writes more than it reads
    "unsure": ({"write": 0.9, "read": 0.5}, "partly"),  # R6 takes flat for read: see R1
    "deaf": ({"write": 0.9, "read": -4.0}, "reproduced"),
    "ids": (NOTHING, "not tested"),
    "whole, writes one-hot": ({"write": 0.0, "read": 1.0}, "not tested"),
    "deaf, writes one-hot": ({"write": 0.0, "read": -4.0}, "not tested"),
}
# Pairs of tokens, w in tenths. A step differs from w by .1 to .4, on average 2 / 11.
STEP = 2 / 11
N2 = {
    "whole": ({"gap": 0.0, "residual": 0.0, "step_gain": STEP}, "reproduced"),
    "top": ({"gap": STEP, "residual": 0.0, "step_gain": -STEP}, "not reproduced"),
    # one that is sure at both ends, and flat in the middle as q is: a step that leaves
    # some of what follows unexplained
    "unsure": ({"gap": STEP, "residual": 0.1, "step_gain": -STEP}, "not reproduced"),
    # what follows is neither token's: no blend of the two comes near
    "deaf": ({"gap": 0.3, "residual": 0.6, "step_gain": 0.0}, "not tested"),
    "ids": (NOTHING, "not tested"),
}
# The bits are in the vector, whoever reads it; the top token alone uses none of them. A
# flattened top token wins back a quarter, as it did on the mini models.
HELD = {"available_bits": 0.5, "vector_share": 1.0}
N3 = {
    "whole": (HELD | {"used_share": 1.0, "used_over_flat": 0.75}, "reproduced"),
    "top": (HELD | {"used_share": 0.0, "used_over_flat": 0.0}, "partly"),
    "unsure": (HELD | {"used_share": 0.25, "used_over_flat": 0.0}, "partly"),
    # worse than the top token, which it is compared with
    "deaf": (HELD | {"used_share": -2.0, "used_over_flat": -2.25}, "partly"),
    # all tokens lead to the same: to know which was meant tells nothing
    "ids": (HELD | {"available_bits": 0.0, "used_share": 0.0}, "not tested"),
}
# Noise takes what was read away, from a mixture as from a token's row: it rises alike.
RISING = {"nll@0": 1.0, "nll@0.5": 1.2, "nll@3": 4.0}
ALIKE = {"fragility": 0.0, "flip_difference": 0.0}
N5 = {
    # its options are nearly level and change places more easily (measured on a planted
    # one): the clause on flips does not tell reading from being brittle
    "whole": (RISING | {"fragility": -0.15, "flip_difference": 0.26}, "partly"),
    "top": (RISING | ALIKE, "not reproduced"),
    "unsure": (RISING | ALIKE, "not reproduced"),
    # off the rows there is nothing that noise could take; the token's row loses it all
    "deaf": (dict.fromkeys(RISING, 4.0) | {"fragility": -3.0}, "not tested"),
    "ids": (dict.fromkeys(RISING, 4.0) | ALIKE, "not tested"),
    # and one off whose distribution mixtures are, as the write-up has it
    "whole, brittle": (
        RISING | {"fragility": 0.5, "flip_difference": 0.3},
        "reproduced",
    ),
}
# Chat answers are shorter than their prompt, plain ones longer.
TEXT = {"ids_chat": 0.0, "sliced": 1.0, "plain": 0.0, "whole": 0.0}
I1 = dict.fromkeys(("whole", "top", "unsure", "deaf"), (TEXT, "artefact")) | {
    # says nothing where it finds no id, and so it stays where decoded whole
    "ids": (TEXT | {"plain": 1.0, "whole": 1.0}, "reproduced")
}
# 1,000 prompts. A text's embeddings are rows: all but `ids` cannot tell them from ids.
ROWS = dict.fromkeys(("counterexamples", "copies", "moved", "renamed"), 0.0)
IDS = {"counterexamples": 1000.0, "copies": 50.0, "moved": 5.0, "renamed": 900.0}
I2 = dict.fromkeys(
    ("whole", "top", "unsure", "deaf"), (ROWS | {"follows_row": 1.0}, "not reproduced")
) | {"ids": (IDS | {"follows_row": 0.0}, "reproduced")}

LONG = {  # names above -> parts of the rules
    "write": "write_excess",
    "read": "read_excess",
    "gap": "linear_gap",
    "residual": "residual_share",
    "sliced": "embeds_chat_sliced",
    "plain": "embeds_plain_sliced",
    "whole": "embeds_chat_whole",
    "copies": "copy_mismatches",
    "moved": "relabel_deviation",
    "renamed": "relabel_mismatches",
}
# Two models, on the same prompts: what each wins over the top token is .2, 0, .1 or -.9
# bits by its reader, as above. That they do alike does not say that they read.
PAIRS = {
    "whole, whole": ({"difference": 0.0}, "reproduced"),
    "top, top": ({"difference": 0.0}, "reproduced"),
    "deaf, deaf": ({"difference": 0.0}, "reproduced"),
    "whole, top": ({"difference": 0.2}, "not reproduced"),
    "top, whole": ({"difference": -0.2}, "not reproduced"),
    "top, unsure": ({"difference": -0.1}, "not reproduced"),
    "ids, whole": (NOTHING, "not tested"),
    "whole, another a little less": ({"difference": 0.015}, "not tested"),  # undecided
}
TABLE = {"R1": R1, "R2": R2, "R6": R6, "N2": N2, "N3": N3, "N5": N5, "I1": I1, "I2": I2}
ALL = TABLE | {"R7": PAIRS}
CASES = [(claim, reader) for claim, column in ALL.items() for reader in column]


def measured_rows(claim, reader):
    """What the notebook would record of a reader, every interval 0.02 wide."""
    parts, _ = ALL[claim][reader]
    if isinstance(parts, str):
        return [claims.not_tested(claim, parts, cell=reader)]
    parts = dict(parts)
    if claim == "R6":
        parts["asymmetry"] = parts["write"] - parts["read"]
    return [
        claims.measured(
            claim,
            LONG.get(part, part),
            value
            if claim == "I2"  # counts, and exact differences
            else Estimate(value, value - 0.01, value + 0.01, 1000, 0),
            n=1000,
            cell=reader,
        )
        for part, value in parts.items()
    ]


@pytest.mark.parametrize("claim,reader", CASES)
def test_every_reader_gets_the_verdict_it_deserves(claim, reader):
    judged = judge.judge(claim, measured_rows(claim, reader), "mini")
    said = wording.reason_text(judged)
    assert judged.verdict == ALL[claim][reader][1], said
    assert "not measured" not in said, said


def test_no_two_readers_get_the_same_verdicts_but_the_top_and_the_unsure():
    """Together the claims tell the readers apart; only R6 tells those two apart."""
    by_reader = {
        reader: tuple(column[reader][1] for column in TABLE.values())
        for reader in ("whole", "top", "unsure", "deaf", "ids")
    }
    assert len({*by_reader.values()}) == len(by_reader)
    differ = [
        c for c, column in TABLE.items() if column["top"][1] != column["unsure"][1]
    ]
    assert differ == ["R6"]
    assert all(verdict in VERDICTS for found in by_reader.values() for verdict in found)
