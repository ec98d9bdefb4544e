"""The stage library: one module per tool or concern; each stage is typed, its evidence a model of `gates`."""
