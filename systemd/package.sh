#!/bin/sh
# To /usr/lib/tandem/package: what the packages do on a host, the same for deb and rpm.
#
#   installed   after the files are there: user, rights, settings
#   upgrading   before the files of a new version come: a master hands over, since unpacking takes the host's time
#   upgraded    as installed, and a node that runs is restarted so that its clients notice as little as can be
#   removing    before the files go: nothing is left in the kernel
#
# A node is never started that did not run: a new host has no configuration yet.
set -e

CONFIG=/etc/tandem/tandem.toml
PINS=/sys/fs/bpf/tandem
# Set before the new files came, where old and new nodes do not understand each other.
BY_HAND=/run/tandem-upgrade-by-hand

say() { printf 'tandem: %s\n' "$*" >&2; }

# Not in a chroot or a container without it.
systemd_runs() { [ -d /run/systemd/system ]; }

runs() { systemd_runs && systemctl --quiet is-active tandem.service; }

user() {
    getent passwd tandem >/dev/null && return
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers /usr/lib/sysusers.d/tandem.conf
    else
        useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin tandem
    fi
}

rights() {
    chown root:tandem /etc/tandem && chmod 750 /etc/tandem
    # The daemon may have been allowed to write there: nothing behind a link is root's to give away.
    [ ! -f "$CONFIG" ] || [ -L "$CONFIG" ] || { chown root:tandem "$CONFIG" && chmod 640 "$CONFIG"; }
}

settings() {
    systemd_runs || return 0
    systemctl daemon-reload || true
    if [ -x /usr/lib/systemd/systemd-sysctl ]; then
        /usr/lib/systemd/systemd-sysctl /usr/lib/sysctl.d/60-tandem.conf || true
    fi
    # Both must know that our device is not theirs before it is there.
    if systemctl --quiet is-active systemd-networkd.service; then networkctl reload || true; fi
    if systemctl --quiet is-active NetworkManager.service; then nmcli general reload || true; fi
}

hand_over() {
    case $(/usr/bin/tandem status 2>/dev/null | head -n 1) in
    *": MASTER,"*)
        # Its proxied connections end in their own time; those of the kernel mode go on at the peer. If
        # the peer cannot take over, the restart is what it is: a second without service.
        say "handing over to the peer, and waiting for the connections that are left here"
        timeout "${TANDEM_UPGRADE_WAIT:-900}" /usr/bin/tandem failover --wait || true
        ;;
    esac
}

restart() {
    runs || return 0
    if [ -e "$BY_HAND" ]; then
        rm -f "$BY_HAND"
        say "nodes of this version and of the one before do not understand each other, so the node was"
        say "not restarted: see \"Upgrade\" in /usr/share/doc/tandem/operations.md"
        return 0
    fi
    if ! runuser -u tandem -- /usr/bin/tandem check "$CONFIG"; then
        say "the configuration is not good for this version, so the node was not restarted: correct it,"
        say "then systemctl restart tandem"
        return 0
    fi
    # It may have become master again in the meantime.
    hand_over
    # Whoever says how long to wait has waited: a second signal ends what is left.
    old=$(systemctl show --property MainPID --value tandem.service)
    if [ -n "${TANDEM_UPGRADE_WAIT:-}" ] && [ "${old:-0}" -gt 0 ]; then
        (sleep 1; kill -s TERM "$old" 2>/dev/null || true) &
    fi
    systemctl restart tandem.service || say "the node does not start: journalctl -u tandem"
}

removing() {
    if systemd_runs; then
        systemctl --quiet disable --now tandem.service || true
    fi
    # What a dead process left. 1: a node runs that systemd knows nothing of.
    /usr/bin/tandem cleanup --pins "$PINS" >/dev/null 2>&1 && code=0 || code=$?
    if [ "$code" = 1 ]; then
        say "a node runs on this host; stop it first"
        exit 1
    fi
    [ ! -d "$PINS" ] || rmdir "$PINS" || true
    /usr/bin/tandem release --config "$CONFIG" >/dev/null 2>&1 && code=0 || code=$?
    if [ "$code" = 1 ]; then
        say "a node runs on this host; stop it first"
        exit 1
    fi
    rm -f "$BY_HAND"
}

case $1 in
installed) user; rights; settings ;;
upgrading) ! runs || hand_over ;;
upgraded) user; rights; settings; restart ;;
removing) removing ;;
*) say "unknown: $1"; exit 64 ;;
esac
