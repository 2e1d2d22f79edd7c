"""The paper as data: claims.csv, the measured rows, and the verdict they give.

A row of claims.csv says in our words what the write-up states, which parts are
measured, and the rule. A rule judges the write-up's statement, not our prediction.
It is a list of clauses, separated by ';', each a keyword and a check:

    needs CHECK [else REASON]   a precondition; where it fails the cell is "not tested"
    holds CHECK                 one part of the write-up's statement
    with CHECK                  its pattern, measured with the suspected step
    without CHECK               the pattern gone, measured with that step alone removed

A measured part is an estimate: value, 95 % interval (low, high), n. A check is
answered yes, no or undecided (None), always from the interval, so that a wide
interval decides nothing. `margin` and `tolerance` stand for the row's columns.

    at_most(x, t)           yes: high <= t. no: low > t
    at_least(x, t)          yes: low >= t. no: high < t
    above(x, y)             yes: low of x > high of y. no: high of x <= high of y + margin
    at_floor(x, y)          the negation of above(x, y)
    any_at_least(t, x, ..)  at least one of the parts is at_least(t)
    value_between(x, a, b)  a <= value <= b, the point estimate only (headroom)
    count(x, n)             x was measured on at least n items
    monotone(x, up|down)    over the doses x@d, no step goes back by more than margin
    matches(x)              |x - paper_value of this cell| <= tolerance
    cited                   literature: what the write-up says = what the source says

One cell (a model, a frame, a support ...) is judged at a time:

    any need not met                                 not tested, with that reason
    every with- and every without-clause is yes      artefact
    every holds-clause is yes                        reproduced
    some are yes                                     partly
    none is yes, at least one is no                  not reproduced
    nothing could be decided                         not tested: interval too wide

Cells that were tested make the claim: all alike give that verdict; if any is
reproduced or partly, partly; a mixture of artefact and not reproduced is not
reproduced, because the pattern is then not there even with the step.
"""
