"""Virtual machines and their network: started, spoken to, broken.

Everything is in one network namespace: a bridge `lan` to which each machine's second interface is connected,
a bridge `mgmt` for SSH, which no fault touches, and on `lan` the addresses of the client and the backends.
"""

import json
import os
import shutil
import socket
import subprocess
import time

OUT = "target/vm"
CLIENT, BACKENDS, VIP = "192.0.2.10", ["192.0.2.21", "192.0.2.22"], "192.0.2.100"
NODES = {"node1": 11, "node2": 12}
# Measured: with the TSC, machines that boot on a busy host run at several times the speed of time.
CLOCK = "clocksource=hpet tsc=unstable nolapic_timer"


def run(*argv, **options):
    """A program that must succeed."""
    return subprocess.run(argv, check=True, text=True, **options)


class Net:
    """The namespace. Gone with `close`."""

    def __init__(self, work):
        self.name = f"tandem-vm-{os.getpid()}"
        self.started = []
        run("ip", "netns", "add", self.name)
        self.inside("ip", "link", "set", "lo", "up")
        for bridge, address in [("mgmt", "198.51.100.1"), ("lan", CLIENT)]:
            self.inside("ip", "link", "add", bridge, "type", "bridge")
            self.inside("ip", "address", "add", f"{address}/24", "dev", bridge)
            self.inside("ip", "link", "set", bridge, "up")
        for backend in BACKENDS:
            self.inside("ip", "address", "add", f"{backend}/24", "dev", "lan")
        self.serve(work)

    def inside(self, *argv, **options):
        return run("ip", "netns", "exec", self.name, *argv, **options)

    def start(self, *argv, **options):
        process = subprocess.Popen(["ip", "netns", "exec", self.name, *argv], **options)
        self.started.append(process)
        return process

    def serve(self, work):
        """The backends: they say who they are, and keep connections open."""
        servers = "".join(
            f"server {{ listen {address}:80; location / {{ return 200 \"{address}\\n\"; }} }}\n"
            for address in BACKENDS
        )
        text = (
            f"daemon off; pid {work}/nginx.pid; error_log {work}/nginx.log; worker_processes 1;\n"
            "events { worker_connections 4096; }\n"
            f"http {{ access_log off; keepalive_requests 1000000; keepalive_timeout 300s;\n{servers}}}\n"
        )
        with open(f"{work}/nginx.conf", "w") as file:
            file.write(text)
        self.start("nginx", "-c", f"{work}/nginx.conf")

    def close(self):
        for process in self.started:
            process.terminate()
            process.wait()
        run("ip", "netns", "delete", self.name)


class Machine:
    """A virtual machine with a disk of its own."""

    def __init__(self, net, work, name):
        self.net, self.work, self.name = net, work, name
        self.number = NODES[name]
        self.address, self.reached = f"192.0.2.{self.number}", f"198.51.100.{self.number}"
        self.disk = f"{work}/{name}.qcow2"
        base = os.path.abspath(f"{OUT}/root.raw")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, self.disk)
        for tap, bridge in [(f"{name}m", "mgmt"), (f"{name}l", "lan")]:
            net.inside("ip", "tuntap", "add", tap, "mode", "tap")
            net.inside("ip", "link", "set", tap, "master", bridge, "up")
        self.process = None

    def boot(self):
        mac = f"52:54:00:00:{{}}:{self.number:02x}"
        addresses = [(self.reached, "eth0"), (self.address, "eth1")]
        ips = " ".join(f"ip={ip}:::255.255.255.0:{self.name}:{nic}:off" for ip, nic in addresses)
        self.process = self.net.start(
            "qemu-system-x86_64", "-machine", "pc", "-cpu", "qemu64", "-m", "320",
            "-accel", "tcg,tb-size=128", "-display", "none", "-nodefaults",
            "-kernel", f"{OUT}/vmlinuz", "-initrd", f"{OUT}/initrd",
            "-append", f"root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 {CLOCK} {ips} "
            f"systemd.hostname={self.name} systemd.machine_id={self.number:032x} random.trust_cpu=on",
            "-drive", f"file={self.disk},if=virtio,cache=unsafe",
            "-device", "virtio-rng-pci",
            "-netdev", f"tap,id=m,ifname={self.name}m,script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=m,mac={mac.format('00')}",
            "-netdev", f"tap,id=l,ifname={self.name}l,script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=l,mac={mac.format('01')}",
            "-serial", f"file:{self.work}/{self.name}.console",
            "-qmp", f"unix:{self.work}/{self.name}.qmp,server=on,wait=off",
        )  # fmt: skip

    def ssh(self, command, check=True, timeout=120):
        """What the machine says to a command."""
        argv = [
            "ssh", "-q", "-i", f"{OUT}/key", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=3", "-o", "ServerAliveInterval=2",
            "-o", "ControlMaster=auto", "-o", f"ControlPath={self.work}/{self.name}.ssh",
            "-o", "ControlPersist=60", f"root@{self.reached}", command,
        ]  # fmt: skip
        wrapped = ["ip", "netns", "exec", self.net.name, *argv]
        done = subprocess.run(wrapped, text=True, capture_output=True, timeout=timeout)
        if check and done.returncode != 0:
            raise SystemExit(f"{self.name}: {command}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def copy(self, source, target):
        with open(source, "rb") as file:
            data = file.read()
        argv = ["ssh", "-q", "-i", f"{OUT}/key", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
                "-o", "UserKnownHostsFile=/dev/null", f"root@{self.reached}", f"cat > {target}"]  # fmt: skip
        subprocess.run(["ip", "netns", "exec", self.net.name, *argv], input=data, check=True)

    def copy_from(self, other, path):
        """A file of another machine, to the same place."""
        text = other.ssh(f"base64 -w 0 {path}")
        self.ssh(f"echo {text} | base64 -d > {path}")

    def forget(self):
        """The connection by SSH, which a machine that reboots takes with it."""
        if os.path.exists(f"{self.work}/{self.name}.ssh"):
            os.remove(f"{self.work}/{self.name}.ssh")

    def wait(self, patience=400):
        """Until it can be spoken to."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} has ended; see {self.work}/{self.name}.console")
            try:
                if self.ssh("systemctl is-system-running --wait || true", check=False, timeout=60).strip():
                    return
            except subprocess.TimeoutExpired:
                pass
            time.sleep(1)
        raise SystemExit(f"{self.name} does not come up; see {self.work}/{self.name}.console")

    def qmp(self, command, **arguments):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{self.work}/{self.name}.qmp")
            file = sock.makefile("rw")
            file.readline()
            for execute, args in [("qmp_capabilities", {}), (command, arguments)]:
                file.write(json.dumps({"execute": execute, "arguments": args}) + "\n")
                file.flush()
                while "return" not in (answer := json.loads(file.readline())):
                    if "error" in answer:
                        raise SystemExit(f"{self.name}: {command}: {answer}")

    def link(self, up):
        """Plugs the cable of the LAN, or pulls it."""
        self.qmp("set_link", name="l", up=up)

    def power_off(self):
        # The child of `ip netns exec` is qemu itself, which it became.
        self.process.kill()
        self.process.wait()
        self.forget()


def have(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        raise SystemExit(f"missing: {', '.join(missing)}; see docs/testing.md")
