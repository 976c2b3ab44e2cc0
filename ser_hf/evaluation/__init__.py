"""Results of a model under a protocol: metrics, intervals, calibration, probes, reports."""
