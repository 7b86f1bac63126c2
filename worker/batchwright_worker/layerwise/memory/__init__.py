"""The bounded memory that units stream through: the place of each (`ring`), and on a CPU the bytes themselves and the
reads that fill them (`pool`). Never decides what is fetched, or when."""
