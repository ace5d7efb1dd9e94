"""What the double's arrays cost: the memory they hold, as hooks see it, and the waits that they cause."""

import collections

STEP = 512  # the pool gives memory in multiples of this
hooks = {}  # the memory hooks that are on, by name

# "to_device" and "to_host" count copies, "synchronize" every time the host has to wait for the device:
# for a number, for a whole array, or for a size that is known only when a mask has been counted.
counts = collections.Counter()


class Memory:
    """The memory of one array and all views of it. Hooks hear of its beginning and its end."""

    __slots__ = ("size",)

    def __init__(self, size):
        self.size = size
        self._tell("malloc_postprocess")

    def __del__(self):
        self._tell("free_postprocess")

    def _tell(self, event):
        mem_size = -(-self.size // STEP) * STEP
        for hook in list(hooks.values()):
            getattr(hook, event)(device_id=0, size=self.size, mem_size=mem_size, mem_ptr=0, pmem_id=0)
