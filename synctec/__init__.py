"""SyncTec: real-time inventory sync for merchants who sell the same goods in several stores."""
