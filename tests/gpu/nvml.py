"""What NVIDIA's management library tells of a card: memory in use, utilisation. Loaded by ctypes; nothing to install."""
import contextlib, ctypes, statistics, threading


class Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class Utilisation(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint) for name in ("gpu", "memory")]


class Card:
    """A card by its UUID: NVML counts cards by their place on the bus, CUDA from the fastest, of those that a process sees."""

    def __init__(self, uuid):
        self.library, self.handle = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
        self.call("nvmlInit_v2")
        self.call("nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(self.handle))
        self.reading()

    def call(self, function, *arguments):
        code = getattr(self.library, function)(*arguments)
        if code:
            raise OSError(f"{function} says {code}")

    def reading(self):
        """Bytes in use on the card, and percent of the last moments in which a kernel ran."""
        memory, utilisation = Memory(), Utilisation()
        self.call("nvmlDeviceGetMemoryInfo", self.handle, ctypes.byref(memory))
        self.call("nvmlDeviceGetUtilizationRates", self.handle, ctypes.byref(utilisation))
        return memory.used, utilisation.gpu


class Watch:
    """Peak of memory beyond what is in use at the beginning, and busy share, both `None` where NVML does not tell them."""

    peak_bytes = busy_share = card = None

    def __init__(self, device, uuid):
        if device == "cpu":
            return
        try:
            self.card = Card(uuid or "")
        except OSError as error:  # no library, no such card, or a part of one
            print(f"NVML tells nothing of {device}: {error}", flush=True)

    @contextlib.contextmanager
    def watching(self):
        if not self.card:
            yield
            return
        (idle, _), readings, done = self.card.reading(), [], threading.Event()

        def read():
            while not done.wait(0.02):
                readings.append(self.card.reading())

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.note(idle, readings)

    def note(self, idle, readings):
        if readings:
            self.peak_bytes = max(used for used, _ in readings) - idle
        # Weights are made before the first reading with work in it.
        working = [i for i, (_, percent) in enumerate(readings) if percent]
        if working:
            self.busy_share = statistics.mean(percent for _, percent in readings[working[0] : working[-1] + 1]) / 100
