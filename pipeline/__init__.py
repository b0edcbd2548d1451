"""What happens to a page: bytes to text, text to numbers, numbers to verdicts. No Spark, no CLI, no cluster here."""
