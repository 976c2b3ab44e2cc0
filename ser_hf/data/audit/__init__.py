"""The audit: what is wrong with recordings before anything is built."""
