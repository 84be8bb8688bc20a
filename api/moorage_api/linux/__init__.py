"""Linux beneath Moorage: system calls that Python lacks, and mounts.

Modules here do I/O, and know nothing of the contracts but `moorage_api.mounts`. They import neither asyncio nor
anything else that is large: a shim imports them.
"""
