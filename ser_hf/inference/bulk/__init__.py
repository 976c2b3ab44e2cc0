"""Any number of recordings labelled: listed, asked, written as Parquet."""
