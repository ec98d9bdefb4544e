"""Past one machine: actions of one run executed by workers of a Dask cluster, their content carried by the remote cache."""
