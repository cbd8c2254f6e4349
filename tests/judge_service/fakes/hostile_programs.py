"""Every row of the table of hostile programs, by the answer that it gets.

The tests ask for squares: f(2) is 4 and f(3) is 9. Programs in SATISFIED attempt something and answer right; each of
their attempts is inside `refused`, which fails the answers where the attempt succeeds.
"""

TESTS = ("assert f(2) == 4", "assert f(3) == 9")
RIGHT = "\ndef f(x):\n    return x * x\n"
WRONG = "\ndef f(x):\n    return 0\n"
ATTEMPT = """
escaped = []
def refused(attempt, *arguments):
    try:
        result = attempt(*arguments)
    except (OSError, MemoryError, ValueError):
        return
    if result != -1:
        escaped.append(attempt)
def f(x):
    return -1 if escaped else x * x
"""
SYSCALL = "import ctypes, os\nlibc = ctypes.CDLL(None)\n"

SATISFIED = {
    "correct": RIGHT,
    "CRLF line ends": RIGHT.replace("\n", "\r\n"),
    "kills itself": f"import os\ntry: os.kill(os.getpid(), 9)\nexcept OSError: pass{RIGHT}",
    "kills its group": f"import os\ntry: os.kill(0, 9)\nexcept OSError: pass{RIGHT}",
    "kills pid 1": f"import os\ntry: os.kill(1, 9)\nexcept OSError: pass{RIGHT}",
    "kills its parent": f"import os\ntry: os.kill(os.getppid(), 9)\nexcept OSError: pass{RIGHT}",
    "kills everything": f"import os\ntry: os.kill(-1, 9)\nexcept OSError: pass{RIGHT}",
    "patches builtins and answers right": f"import builtins, json\nbuiltins.len = json.dumps = None{RIGHT}",
    "leaves a thread": f"import threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start(){RIGHT}",
    "leaves a detached process": f"""
import os, time
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
except OSError:
    pass{RIGHT}""",
    "uses asyncio": "import asyncio\nasync def g(x):\n    return x * x\ndef f(x):\n    return asyncio.run(g(x))\n",
    "reads host files": f"""{ATTEMPT}
for path in ("/etc/passwd", "/etc/shadow", "/proc/1/environ", "/root/.bashrc", "/proc/self/mem", "/sys/kernel/notes"):
    refused(open, path)
refused(__import__("os").listdir, "/proc")
""",
    "writes to system folders": f"""{ATTEMPT}
import sys
for path in ("/usr/lib/x", "/etc/x", "/x", "/inside/x", "/packages/x", "/dev/x", sys.prefix + "/x", "/../x"):
    refused(open, path, "w")
""",
    "fills the disk": f"""{ATTEMPT}
def fill():
    for i in range(100):
        with open(f"/tmp/{{i}}", "wb") as file:
            file.write(bytes(1 << 20))
refused(fill)
""",
    "makes a million files": f"""{ATTEMPT}
def fill():
    for i in range(1_000_000):
        open(f"/tmp/{{i}}", "w").close()
refused(fill)
""",
    "links to the host": f"""{ATTEMPT}
import os
def link():
    os.symlink("/../../etc/passwd", "/tmp/link")
    return open("/tmp/link")
refused(link)
""",
    "opens sockets": f"""{ATTEMPT}
import socket, ctypes
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_PACKET, socket.AF_NETLINK, socket.AF_VSOCK):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        refused(socket.socket, family, kind)
refused(socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM)
for address in ("127.0.0.1", "169.254.169.254", "::1"):
    refused(socket.create_connection, (address, 80), 1)
refused(socket.getaddrinfo, "example.com", 80)
""",
    "makes forbidden system calls": f"""{SYSCALL}{ATTEMPT}
refused(libc.unshare, 0x10000000)
refused(libc.unshare, 0x20000)
refused(libc.setns, 0, 0)
refused(libc.mount, b"none", b"/tmp", b"tmpfs", 0, None)
refused(libc.umount2, b"/tmp", 2)
refused(libc.pivot_root if hasattr(libc, "pivot_root") else libc.chroot, b"/tmp", b"/tmp")
refused(libc.ptrace, 0, 0, 0, 0)
refused(libc.memfd_create, b"x", 0)
refused(os.memfd_create, "x")
refused(libc.clone, None, None, 0x10000000, None)
numbers = {{"keyctl": (250, 219), "bpf": (321, 280), "io_uring_setup": (425, 425), "perf_event_open": (298, 241),
            "userfaultfd": (323, 282), "process_vm_readv": (310, 270), "add_key": (248, 217), "clone3": (435, 435),
            "execveat": (322, 281), "open_by_handle_at": (304, 265), "kexec_load": (246, 104)}}
for name, of_machine in numbers.items():
    refused(libc.syscall, of_machine[os.uname().machine == "aarch64"], 0, 0, 0, 0, 0)
""",
    "raises its limits": f"""{ATTEMPT}
import resource
for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE):
    refused(resource.setrlimit, kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
""",
    "becomes another user": f"{ATTEMPT}\nimport os\nrefused(os.setuid, 0)\nrefused(os.setgroups, [0])\n",
    "looks for the judge in its environment": f"""
import os, sys
assert not any("judge" in text or "TOKEN" in text for text in [*os.environ, *os.environ.values(), *sys.argv]){RIGHT}""",
}

VIOLATED = {
    "wrong": WRONG,
    "syntax error": "def f(x:\n",
    "entry point missing": "def g(x):\n    return x * x\n",
    "empty": "",
    "sys.exit at import": f"import sys\nsys.exit(0){RIGHT}",
    "os._exit at import": f"import os\nos._exit(0){RIGHT}",
    "SystemExit at import": f"raise SystemExit{RIGHT}",
    "quit at import": f"quit(){RIGHT}",
    "sys.exit inside": "import sys\ndef f(x):\n    sys.exit(0)\n",
    "os._exit inside": "import os\ndef f(x):\n    os._exit(0)\n",
    "SystemExit inside": "def f(x):\n    raise SystemExit(0)\n",
    "quit inside": "def f(x):\n    quit()\n",
    "segfault": f"import ctypes\nctypes.string_at(0){RIGHT}",
    "abort": f"import os\nos.abort(){RIGHT}",
    "always equal": "class A:\n    def __eq__(self, other):\n        return True\ndef f(x):\n    return A()\n",
    "subclass of int": "class A(int):\n    pass\ndef f(x):\n    return A(x * x)\n",
    "subclass of int that always equals": """
class A(int):
    def __eq__(self, other):
        return True
    __hash__ = int.__hash__
def f(x):
    return A(0)
""",
    "mock": "from unittest.mock import MagicMock\nf = MagicMock()\n",
    "text instead of a number": "def f(x):\n    return str(x * x)\n",
    "patches everything": f"""
import builtins, json, sys, unittest, atexit
builtins.isinstance = builtins.all = lambda *a: True
json.dumps = lambda *a, **k: '{{"value": true, "passed": true}}'
unittest.TestCase.assertEqual = lambda *a: None
sys.modules["json"] = sys.modules["encoding"] = sys.modules["program"] = None
sys.meta_path.insert(0, None)
sys.settrace(lambda *a: None)
atexit.register(print, "PASS"){WRONG}""",
    "patches the runner": f"""
import sys
for name in ("program", "channel", "encoding"):
    for key in list(vars(sys.modules[name])):
        if not key.startswith("__"):
            setattr(sys.modules[name], key, lambda *a, **k: {{"value": True}}){WRONG}""",
    "forges answers": f"""
import os
print("PASS\\n2 passed in 0.01s")
for fd in range(100):
    try:
        os.write(fd, b'{{"value": true}}\\n{{"passed": true}}\\n{{"ended": 0}}\\nPASS\\n')
    except OSError:
        pass{WRONG}""",
    "closes its descriptors": f"import os\nos.closerange(0, 101){RIGHT}",
    "closes its descriptors inside": "import os\ndef f(x):\n    os.closerange(0, 101)\n    return x * x\n",
    "NaN": "def f(x):\n    return float('nan')\n",
    "infinite": "def f(x):\n    return float('inf')\n",
    "nesting": "def f(x):\n    a = []\n    for _ in range(100_000):\n        a = [a]\n    return a\n",
    "forged nesting": "import os\ndef f(x):\n    os.write(3, b'[' * 100_000 + b'\\n')\n    return 0\n",
    "forged constants": "import os\ndef f(x):\n    os.write(3, b'{\"value\": NaN}\\n')\n    return 0\n",
    "forged tags": 'import os\ndef f(x):\n    os.write(3, b\'{"value": {"i": [1], "t": 2}}\\n\')\n    return 0\n',
    "cycle": "def f(x):\n    a = []\n    a.append(a)\n    return a\n",
    "lone surrogate": "def f(x):\n    return chr(0xD800)\n",
    "a million digits": "def f(x):\n    return 10 ** 1_000_000\n",
    "a million decimal digits": "import os\ndef f(x):\n    os.write(3, b'{\"value\": ' + b'9' * 900_000 + b'}\\n')\n",
    "NUL byte": f"\0{RIGHT}",
    "byte order mark": f"\ufeff{RIGHT}",
    "mixed tabs": "def f(x):\n\tif x:\n        return x * x\n",
    "lone surrogate in the source": f"a = '\ud800'{RIGHT}",
    "a megabyte of source": "x = [" + "1, " * 350_000 + "\n",
    "100,000 parentheses": "f = " + "(" * 100_000 + ")" * 100_000,
    "memory bomb": "def f(x):\n    a = []\n    while True:\n        a.append(bytearray(1 << 24))\n",
    "memory bomb at import": "a = [0] * (1 << 40)\n",
    "fork bomb": "import os\ndef f(x):\n    while True:\n        os.fork()\n",
    "thread bomb": """
import threading, time
def f(x):
    while True:
        threading.Thread(target=time.sleep, args=(60,)).start()
""",
    "subprocess storm": """
import subprocess, sys
def f(x):
    return len([subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(1000)])
""",
    "forks and fills memory": """
import os, time
def f(x):
    for _ in range(20):
        if os.fork() == 0:
            break
    a = [bytearray(b"x" * (1 << 20)) for _ in range(200)]
    time.sleep(60)
""",
}

TOO_LONG = {
    "loop at import": "while True: pass\n",
    "loop inside": "def f(x):\n    while True: pass\n",
    "loop in __del__": "class A:\n    def __del__(self):\n        while True: pass\ndef f(x):\n    A()\n    return 4\n",
    "ignores signals": """
import signal
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
def f(x):
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    "sleeps": "import time\ndef f(x):\n    time.sleep(60)\n",
    "a regular expression": "import re\ndef f(x):\n    re.match(r'(a+)+$', 'a' * 50 + 'b')\n",
}

TOO_MUCH = {
    "floods stdout": "def f(x):\n    while True: print('x' * 1000)\n",
    "one endless line": "import sys\ndef f(x):\n    while True: sys.stdout.write('x' * 100_000)\n",
    "floods stdout at import": "while True: print('x' * 1000)\n",
    "huge reply": "def f(x):\n    return 'x' * 3_000_000\n",
    "endless reply": "import os\ndef f(x):\n    while True: os.write(3, b'x' * 100_000)\n",
}

LOOKS_FOR_ITS_TESTS = """
import gc, os, sys
def f(x):
    texts = [str(o) for o in gc.get_objects() if type(o) in (str, list, tuple, dict)]
    frame = sys._getframe().f_back
    while frame:
        texts += [str(value) for value in frame.f_locals.values()]
        frame = frame.f_back
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if name not in ("dev", "lib", "usr", "include", "proc", "sys")]
        for name in names:
            try:
                texts.append(open(os.path.join(folder, name), errors="replace").read(100_000))
            except OSError:
                pass
    wanted = [chr(55) + "33317333173", chr(57) + "11191191191"]  # not in this text, or it would find itself
    return next((int(number) for number in wanted if any(number in text for text in texts)), 0)
"""
SOUGHT_TESTS = ("assert f(2) == 733317333173", "assert f(3) == 911191191191")

BOMBS = ("fork bomb", "thread bomb", "memory bomb", "subprocess storm", "forks and fills memory")

SLOW_IMPORT = """
import time, numpy
time.sleep(3)
def f(x):
    return int(numpy.int64(x) ** 2)
"""

LEAVES_A_TRACE = """
import sys, time
sys.trace = 1
try: open('/tmp/trace', 'w').close()
except OSError: pass
def f(x):
    time.sleep(0.3)
    return x * x
"""

LOOKS_FOR_OTHERS = """
import os, time
def f(x):
    time.sleep(0.1)
    others = []
    for pid in range(2, 40000):
        try:
            os.kill(pid, 0)
            others.append(pid)
        except OSError:
            pass
    try:
        others += os.listdir("/tmp")
    except OSError:
        pass
    return others or x * x
"""

LOOKS_FOR_A_TRACE = f"""{ATTEMPT}
import os, sys
refused(os.stat, '/tmp/trace')
assert not hasattr(sys, 'trace')
"""
