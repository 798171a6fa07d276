"""The engine: the reconcile of one Service, passes over all of them, and what keeps passes coming."""
