"""What people have, listed for `pack`: class folders, tables, COCO json, Parquet with image bytes, other tars."""
