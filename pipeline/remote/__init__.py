"""The remote cache: results of pure stages, shared through a server that speaks Bazel's HTTP cache protocol."""
