"""What `manage.py bench` measures: each figure beside another one of the same run on the same machine.

They write into an empty database only (`goods.stock_up` refuses any other), which the command makes for them and throws away.
"""
