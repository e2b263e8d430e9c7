"""keepalived and HAProxy on the same machines, for comparison: VRRPv3, an advertisement each 0.1 s."""

import time

from vm import BACKENDS, VIP

HAPROXY = """global
  maxconn 20000
defaults
  mode tcp
  timeout connect 3s
  timeout client 300s
  timeout server 300s
listen web
  bind :80
""" + "".join(
    f"  server b{number} {backend}:80 check inter 1s\n" for number, backend in enumerate(BACKENDS, 1)
)

KEEPALIVED = """global_defs {
  vrrp_version 3
}
vrrp_track_process haproxy {
  process haproxy
}
vrrp_instance pair {
  interface eth1
  state BACKUP
  nopreempt
  virtual_router_id 51
  priority PRIORITY
  advert_int 0.1
  virtual_ipaddress {
    VIP/24
  }
  track_process {
    haproxy
  }
}
"""


def install(pair):
    """Both on both machines."""
    for priority, machine in zip([150, 100], pair.machines):
        text = KEEPALIVED.replace("PRIORITY", str(priority)).replace("VIP", VIP)
        machine.ssh(f"cat > /etc/haproxy/haproxy.cfg <<'END'\n{HAPROXY}END")
        machine.ssh(f"cat > /etc/keepalived/keepalived.conf <<'END'\n{text}END")
        machine.ssh("systemctl enable --now haproxy keepalived")


class Rival:
    """The pair, as the faults see it: which machine has the address, and what is killed."""

    units = ["keepalived", "haproxy"]

    def __init__(self, pair):
        self.pair = pair
        self.machines = pair.machines
        self.watch = pair.watch
        pair.units = self.units

    def mend(self, name, machine):
        self.pair.mend(name, machine)
        if name in ("kill -9", "hang (SIGSTOP)"):
            # Nobody else ends a process that stands still, nor starts it anew.
            machine.ssh("systemctl kill -s KILL keepalived haproxy; sleep 1; systemctl restart keepalived haproxy")

    def settle(self, patience=240):
        end = time.monotonic() + patience
        while time.monotonic() < end:
            up = [m.ssh("pgrep haproxy >/dev/null && pgrep keepalived >/dev/null && echo up", check=False) for m in self.machines]
            has = [bool(m.ssh(f"ip -o addr show dev eth1 | grep -F ' {VIP}/'", check=False)) for m in self.machines]
            if all(up) and sum(has) == 1:
                time.sleep(2)
                master = has.index(True)
                return self.machines[master], self.machines[1 - master]
            time.sleep(0.5)
        raise SystemExit("keepalived and HAProxy: no master")
