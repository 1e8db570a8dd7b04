"""The stages of a lab, one module each: functions that look at the state and change it through the runtime.

members.py    register, unregister, combine; networks that have changed are registered again
device.py     another device: what stays, what is put away
profile.py    measure in the background; what was measured becomes known
search.py     cost models, and plans from them, now or in the background
run.py        a run in its turn
plans.py      a plan in force, applied, loaded, exported
edit.py       the plan editor, which follows the lab
checks.py     compare, check the answers, choose backends
"""
