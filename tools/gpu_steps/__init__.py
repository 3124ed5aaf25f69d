"""What `gpu_day.py` measures: each step is a function `(context, **options) -> facts`, in a file with its like."""
