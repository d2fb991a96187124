"""Balance transfers: a file of payments, imported exactly once by several processes.

    python -m examples.balance_transfer import FILE.csv --store sqlite:///bank.db
    python -m examples.balance_transfer show PAYMENT_ID --store sqlite:///bank.db
    python -m examples.balance_transfer chaos
    python -m examples.balance_transfer service

Read it in this order; the first file is all the business there is, the rest is what any import needs:

`model.py`       accounts and the operations on them             start here when you copy
`orders.py`      the CSV file: payments, and what is wrong with it by line
`worker.py`      one worker process: asks casops, says what came of it
`pool.py`        several of them, which may die at any moment
`importing.py`   the import from beginning to end
`chaos.py`       the same while workers are killed and payments are asked for twice
`checking.py`    what the store alone proves afterwards
`showing.py`     progress and tables                             `timeline.py`  the life of one payment
`serving.py`     the bank over HTTP
`service.py`     one payment over HTTP, while its server is killed
`cli.py`         the command line                                `make_sample.py`  made sample.csv
"""
