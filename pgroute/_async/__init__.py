"""The face for asyncio, and the master of the synchronous one."""
