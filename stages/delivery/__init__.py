"""Delivery: strategies (pure), one executor, targets that run releases and routers that send them traffic."""
