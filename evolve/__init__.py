"""Agentic hyperparameter tuning for post-training, whose promotions can be trusted.

Read `types.py`, `policy.py` and `loop.py`, in this order: they tell the whole story.
"""

__version__ = "0.1.0"
