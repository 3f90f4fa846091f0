#!/bin/sh
# Installs Shoal on a device from the packages that lie beside this file: a folder, a stick. Needs no network.
#
# It looks at the machine, copies the packages to a folder of its own, verifies the release key's signature and the checksums
# of that copy, and only then installs from it. Nothing is started unless --join is given, and nothing before it was verified.
# docs/install.md has all options, checks and exit codes. POSIX sh; what it calls, busybox has.
set -u
umask 022
LC_ALL=C
export LC_ALL
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

# The checks of the machine itself. `shoal-agent doctor` has the same ones; a test holds the two lists together.
CHECKS='architecture kernel namespaces seccomp landlock overlay cgroups memory-limit cpu-limit pids-limit disk clock'
# What is checked of the release.
RELEASE_CHECKS='packages signature checksums room'

# 2024-01-01: a clock before this has never been set.
NEVER_SET=1704067200
# KiB that should be free for images and compiled code.
LOW_DISK=131072
FILES=/usr/lib/shoal/.installed-files
HOW='how is the release to be verified? Give --key FILE or --fingerprint sha256:HEX of the release key, or --sums HEX'

usage() {
    cat << 'EOF'
Usage: sh install.sh [OPTIONS]

Installs shoal-agent (and shoal-compiler) from the packages beside this file.

  --check-only          look at the machine, and at the packages if they are here; change nothing
  --key FILE            the release key (PEM), which you got another way than these packages
  --fingerprint sha256:HEX
                        or its fingerprint; the key itself is then taken from release-key.pem beside this file
  --sums HEX            or, where there is no OpenSSL 3: the SHA-256 of SHA256SUMS, verified on another machine
  --with-compiler       also install shoal-compiler (done without this, if it lies here)
  --without-compiler    only shoal-agent: modules cannot be compiled on this device
  --join FILE           then start the guard, enrol with this join file, and start the agent
  --destdir DIR         only unpack into this folder, for an image that is being built; looks at no machine, starts nothing
  --machine NAME        with --destdir: x86_64 or aarch64, if it is not this machine's
  --uninstall           stop everything and remove the programs; identity, documents and volumes stay
  --purge               with --uninstall: remove those, too
  --list-checks         print the names of the checks
  -h, --help

Exit codes: 0 done, nothing failed; 1 it did not work; 2 wrong usage; 3 refused: the signature or a checksum is wrong, or cannot
be checked; 4 this machine lacks something that is needed.
EOF
}

say() { printf '%s\n' "$*"; }
die() {
    code=$1
    shift
    printf 'error: %s\n' "$*" >&2
    exit "$code"
}

failed=0
warned=0
ok() { printf '%-6s %-13s %s\n' ok "$1" "$2"; }
warn() {
    warned=$((warned + 1))
    printf '%-6s %-13s %s\n%-20s %s\n' warn "$1" "$2" '' "$3"
}
bad() {
    failed=$((failed + 1))
    printf '%-6s %-13s %s\n%-20s %s\n' FAILED "$1" "$2" '' "$3"
}

# --- The machine. One function a check; agent/src/doctor/machine.rs decides the same.

check_architecture() {
    case $(uname -m) in
    x86_64 | aarch64) ok architecture "$(uname -m)" ;;
    *) bad architecture "$(uname -m)" 'there are packages for x86_64 and aarch64 only' ;;
    esac
}

# at_least MAJOR MINOR: whether the running kernel is that new.
at_least() {
    release=$(uname -r)
    major=${release%%.*}
    rest=${release#*.}
    minor=${rest%%[!0-9]*}
    case $major$minor in
    '' | *[!0-9]*) return 1 ;;
    esac
    [ "$major" -gt "$1" ] || { [ "$major" -eq "$1" ] && [ "${minor:-0}" -ge "$2" ]; }
}

check_kernel() {
    if at_least 5 13; then
        ok kernel "$(uname -r)"
    elif at_least 5 11; then
        warn kernel "$(uname -r)" 'Landlock came with Linux 5.13: containers that require it are refused'
    else
        bad kernel "$(uname -r)" 'Linux 5.11 or newer is needed (5.13 for all walls)'
    fi
}

check_namespaces() {
    missing=
    for kind in cgroup ipc mnt net pid uts; do
        [ -L "/proc/self/ns/$kind" ] || missing="$missing $kind"
    done
    if [ -z "$missing" ]; then
        ok namespaces 'cgroup ipc mnt net pid uts'
    else
        bad namespaces "none of:$missing" 'no container starts without them: another kernel is needed'
    fi
}

check_seccomp() {
    if [ -e /proc/sys/kernel/seccomp/actions_avail ]; then
        ok seccomp 'filters of system calls'
    else
        bad seccomp none 'no container starts without it: the kernel needs CONFIG_SECCOMP_FILTER'
    fi
}

landlock_words() {
    if at_least 6 12; then
        say 'folders, truncation, TCP ports, signals'
    elif at_least 6 7; then
        say 'folders, truncation, TCP ports; no signals before Linux 6.12'
    elif at_least 6 2; then
        say 'folders, truncation; no TCP ports before Linux 6.7'
    else
        say 'folders; no truncation before Linux 6.2'
    fi
}

check_landlock() {
    lsm=/sys/kernel/security/lsm
    if ! at_least 5 13; then
        warn landlock none 'it came with Linux 5.13: containers that require it are refused'
    elif [ -r "$lsm" ]; then
        case ,$(cat "$lsm"), in
        *,landlock,*) ok landlock "$(landlock_words)" ;;
        *) warn landlock off 'add landlock to lsm= on the kernel command line: containers that require it are refused' ;;
        esac
    elif grep -q landlock_create_ruleset /proc/kallsyms 2> /dev/null; then
        ok landlock "$(landlock_words)"
    else
        warn landlock none 'the kernel needs CONFIG_SECURITY_LANDLOCK: containers that require it are refused'
    fi
}

check_overlay() {
    module=/lib/modules/$(uname -r)/kernel/fs/overlayfs/overlay.ko
    if grep -qw overlay /proc/filesystems; then
        ok overlay 'built in, or loaded'
    elif [ -e "$module" ] || [ -e "$module.xz" ] || [ -e "$module.zst" ] || [ -e "$module.gz" ]; then
        ok overlay 'as a module'
    else
        warn overlay none 'files of images are copied into the memory of each container instead'
    fi
}

# Mount points of v1 with a controller, and of v2.
v1_of() { awk -v want="$1" '$3 == "cgroup" { n = split($4, o, ","); for (i = 1; i <= n; i++) if (o[i] == want) { print $2; exit } }' /proc/mounts; }
v1_any() { awk '$3 == "cgroup" { print $2; exit }' /proc/mounts; }
v2_at() { awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts; }

check_cgroups() {
    v1=$(v1_any)
    v2=$(v2_at)
    if [ -n "$v1" ] && [ -n "$v2" ]; then
        ok cgroups 'v1 and v2'
    elif [ -n "$v2" ]; then
        ok cgroups v2
    elif [ -n "$v1" ]; then
        ok cgroups v1
    else
        warn cgroups none 'mount them (mount -t cgroup2 none /sys/fs/cgroup): containers with limits are refused'
    fi
}

has_controller() {
    [ -n "$(v1_of "$1")" ] && return 0
    v2=$(v2_at)
    [ -n "$v2" ] && grep -qw "$1" "$v2/cgroup.controllers" 2> /dev/null
}

check_controller() {
    if has_controller "$2"; then
        ok "$1" "controller $2"
    else
        warn "$1" "no controller $2" "$3"
    fi
}

check_memory_limit() {
    hint='containers with a limit of memory are refused; on the kernel command line: cgroup_enable=memory'
    if grep -qw cgroup_disable=memory /proc/cmdline; then
        hint='containers with a limit of memory are refused; take cgroup_disable=memory off the kernel command line'
    fi
    check_controller memory-limit memory "$hint"
}
check_cpu_limit() { check_controller cpu-limit cpu 'containers with a limit of CPU are refused'; }
check_pids_limit() { check_controller pids-limit pids 'containers with a limit of processes are refused'; }

# The nearest folder that is there.
there() {
    path=$1
    while [ ! -d "$path" ]; do
        path=$(dirname "$path")
    done
    say "$path"
}
# free_at DIR: KiB that can still be written there; fs_at DIR: the mount that it is on.
free_at() { df -Pk "$(there "$1")" | awk 'NR == 2 { print $4 }'; }
fs_at() { df -Pk "$(there "$1")" | awk 'NR == 2 { print $6 }'; }

check_disk() {
    free=$(free_at /var/lib/shoal)
    if [ "${free:-0}" -ge "$LOW_DISK" ]; then
        ok disk "$((free / 1024)) MiB free in /var/lib"
    else
        warn disk "$((${free:-0} / 1024)) MiB free in /var/lib" 'images cannot be pulled when space is low; make room'
    fi
}

check_clock() {
    now=$(date +%s)
    if [ "$now" -ge "$NEVER_SET" ]; then
        ok clock "$(date -u '+%Y-%m-%dT%H:%M:%SZ')"
    else
        warn clock "$(date -u '+%Y-%m-%dT%H:%M:%SZ')" 'set the clock; until then the time that signed documents prove counts'
    fi
}

check_machine() {
    for check in $CHECKS; do
        "check_$(printf %s "$check" | tr - _)"
    done
}

# --- The release.

# one_of PATTERN…: the one file that fits; none or several are an error in words.
one_of() {
    found=
    for file in "$@"; do
        [ -f "$file" ] || continue
        if [ -n "$found" ]; then
            say "more than one: $(basename "$found") and $(basename "$file")" >&2
            return 1
        fi
        found=$file
    done
    [ -n "$found" ] && basename "$found"
}

# How packages are installed here: by dpkg, if it is there and of this architecture; else by tar.
find_way() {
    [ -n "$machine" ] || machine=$(uname -m)
    case $machine in
    x86_64) debian=amd64 ;;
    aarch64) debian=arm64 ;;
    *) debian=none ;;
    esac
    way=tar
    if [ -z "$destdir" ] && command -v dpkg > /dev/null 2>&1; then
        if { dpkg --print-architecture && dpkg --print-foreign-architectures; } 2> /dev/null | grep -qx "$debian"; then
            way=deb
        fi
    fi
}

package_file() {
    if [ "$way" = deb ]; then
        one_of "$here/$1"_*_"$debian.deb"
    else
        one_of "$here/$1"-[0-9]*"-$machine.tar.gz"
    fi
}

find_packages() {
    find_way
    if [ "$way" = deb ]; then ending="_$debian.deb"; else ending="-$machine.tar.gz"; fi
    if ! agent=$(package_file shoal-agent); then
        others=
        for file in "$here"/shoal-agent[_-]*; do
            case $file in
            *.deb | *.tar.gz) others="$others $(basename "$file")" ;;
            esac
        done
        bad packages "not exactly one shoal-agent*$ending in $here${others:+; here:$others}" \
            "get the packages for $machine, and put them beside this file"
        return 1
    fi
    packages=$agent
    if [ "$compiler" != no ]; then
        if found=$(package_file shoal-compiler); then
            packages="$agent $found"
        elif [ "$compiler" = yes ]; then
            bad packages "not exactly one shoal-compiler*$ending in $here" 'put it beside this file, or give --without-compiler'
            return 1
        fi
    fi
    ok packages "$packages"
    case $packages in
    *shoal-compiler*) ;;
    *) warn packages 'without shoal-compiler' 'only modules that are interpreted, or compiled already, run here' ;;
    esac
}

# A key's fingerprint: the SHA-256 of its DER form, which is what PEM's lines hold.
fingerprint_of() { sed -e '/^-----/d' "$1" | base64 -d 2> /dev/null | sha256sum | cut -d ' ' -f 1; }

refuse() {
    bad "$1" "$2" "$3"
    exit 3
}

# Everything below reads the copy in $work alone: a stick may be changed meanwhile.
take_copy() {
    for file in SHA256SUMS SHA256SUMS.sig install.sh $packages; do
        if [ -f "$here/$file" ] && ! cp "$here/$file" "$work/$file"; then
            die 4 "cannot copy $file to $work: is there room?"
        fi
    done
}

check_signature() {
    [ -f "$work/SHA256SUMS" ] || refuse signature 'no SHA256SUMS beside the packages' 'nothing was installed'
    if [ -n "$sums" ]; then
        found=$(sha256sum "$work/SHA256SUMS" | cut -d ' ' -f 1)
        if [ "$found" != "$sums" ]; then
            refuse signature "SHA256SUMS has SHA-256 $found, --sums says $sums" 'it is another list than the one that was verified'
        fi
        ok signature 'SHA256SUMS is the list that --sums names, verified elsewhere'
        return
    fi
    if [ -z "$key" ]; then
        [ -f "$here/release-key.pem" ] || refuse signature 'no release-key.pem beside the packages' 'give --key FILE'
        key=$work/release-key.pem
        cp "$here/release-key.pem" "$key" || die 1 "cannot copy release-key.pem to $work"
    fi
    if [ -n "$fingerprint" ]; then
        found=$(fingerprint_of "$key")
        if [ "$found" != "$fingerprint" ]; then
            refuse signature "the key's fingerprint is sha256:$found" "expected sha256:$fingerprint: this is another key"
        fi
    fi
    [ -f "$work/SHA256SUMS.sig" ] || refuse signature 'no SHA256SUMS.sig beside the packages' 'what is not signed is not installed'
    case $(openssl version 2> /dev/null) in
    'OpenSSL '[3-9].* | 'OpenSSL '[1-9][0-9].*) ;;
    *) refuse signature 'no OpenSSL 3 here to check it with' "on a machine that has it:
  openssl pkeyutl -verify -rawin -pubin -inkey release-key.pem -in SHA256SUMS -sigfile SHA256SUMS.sig && sha256sum SHA256SUMS
then here: sh install.sh --sums THAT-NUMBER" ;;
    esac
    if openssl pkeyutl -verify -rawin -pubin -inkey "$key" -in "$work/SHA256SUMS" -sigfile "$work/SHA256SUMS.sig" > /dev/null 2>&1; then
        ok signature "of SHA256SUMS, by sha256:$(fingerprint_of "$key")"
    else
        refuse signature 'SHA256SUMS is not signed by this key' 'nothing was installed: do not trust these files'
    fi
}

check_checksums() {
    for file in install.sh $packages; do
        [ -f "$work/$file" ] || continue
        listed=$(awk -v name="$file" '$2 == name { print $1 }' "$work/SHA256SUMS")
        found=$(sha256sum "$work/$file" | cut -d ' ' -f 1)
        if [ -z "$listed" ]; then
            refuse checksums "$file is not in SHA256SUMS" 'nothing was installed: it is of another release'
        elif [ "$listed" != "$found" ]; then
            refuse checksums "$file has SHA-256 $found, SHA256SUMS says $listed" 'nothing was installed: it is damaged or was changed'
        fi
    done
    ok checksums 'as SHA256SUMS says'
}

check_room() {
    need=8192
    for file in $packages; do
        if [ "$way" = deb ]; then
            size=$(dpkg-deb -f "$work/$file" Installed-Size)
        else
            size=$(($(gzip -dc "$work/$file" | wc -c) / 1024))
        fi
        need=$((need + ${size:-0}))
    done
    free=$(free_at "$destdir/usr/lib/shoal")
    words="$((${free:-0} / 1024)) MiB free in $destdir/usr/lib, $((need / 1024)) MiB are needed"
    if [ "${free:-0}" -lt "$need" ]; then
        bad room "$words" 'make room; --without-compiler needs much less'
        return 1
    fi
    ok room "$words"
}

check_release() {
    find_packages || return 1
    if [ -z "$sums$key$fingerprint" ]; then
        warn signature 'not checked' 'give --key, --fingerprint or --sums'
        return 0
    fi
    base=${TMPDIR:-/var/tmp}
    [ -d "$base" ] || base=/tmp
    work=$(mktemp -d "$base/shoal-install.XXXXXX") || die 4 "cannot make a folder in $base: is there room?"
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    take_copy
    check_signature
    check_checksums
    check_room
}

# --- Installing and removing.

has_systemd() { [ -d /run/systemd/system ] && command -v systemctl > /dev/null 2>&1; }

install_debs() {
    # Together: one depends on the other. Not by xargs: busybox's would take busybox's own dpkg.
    (
        cd "$work" || exit 1
        set --
        for file in $packages; do set -- "$@" "./$file"; done
        dpkg -i "$@"
    ) || die 1 'dpkg could not install the packages'
}

install_tars() {
    : > "$work/files"
    for file in $packages; do
        tar -tzf "$work/$file" >> "$work/files" || die 1 "cannot read $file"
    done
    # What the owner changed stays.
    mkdir "$work/own"
    grep '^etc/.*[^/]$' "$work/files" > "$work/etc" || :
    while read -r file; do
        if [ -f "/$file" ]; then
            mkdir -p "$work/own/$(dirname "$file")"
            cp -p "/$file" "$work/own/$file" || die 1 "cannot keep /$file"
        fi
    done < "$work/etc"
    for file in $packages; do
        tar -xzf "$work/$file" -C / || die 1 "cannot unpack $file: what it unpacked so far lies in /usr/lib/shoal"
    done
    while read -r file; do
        if [ -f "$work/own/$file" ]; then
            cp "/$file" "/$file.new"
            cp -p "$work/own/$file" "/$file"
            cmp -s "/$file" "/$file.new" && rm -f "/$file.new"
        fi
    done < "$work/etc"
    # What an older release had and this one has not.
    if [ -f "$FILES" ]; then
        while read -r file; do
            case $file in
            etc/* | */) ;;
            *) grep -qxF "$file" "$work/files" || rm -f "/$file" ;;
            esac
        done < "$FILES"
    fi
    cp "$work/files" "$FILES"
    if command -v systemd-sysusers > /dev/null 2>&1; then
        systemd-sysusers shoal-agent.conf || say 'no names for the users of Shoal; it goes by their numbers'
    fi
    if command -v systemd-tmpfiles > /dev/null 2>&1; then
        systemd-tmpfiles --create shoal-agent.conf || :
    fi
    if has_systemd; then
        systemctl daemon-reload
        systemctl try-restart shoal-guard.service shoal-agent.service
    fi
}

# Into the root file system of an image that is being built.
unpack_into() {
    mkdir -p "$destdir/usr/lib/shoal" || die 1 "cannot make $destdir"
    : > "$destdir$FILES"
    for file in $packages; do
        tar -tzf "$work/$file" >> "$destdir$FILES" || die 1 "cannot read $file"
        tar -xzf "$work/$file" -C "$destdir" || die 1 "cannot unpack $file"
    done
    say "unpacked into $destdir"
}

start_and_join() {
    if has_systemd; then
        systemctl enable --now shoal-guard.service || die 1 'the guard does not start: journalctl -u shoal-guard'
    else
        mkdir -p /var/log/shoal
        if ! shoal-guard status > /dev/null 2>&1; then
            setsid /usr/lib/shoal/shoal-guard supervise < /dev/null >> /var/log/shoal/guard.log 2>&1 &
        fi
    fi
    turns=0
    until shoal-guard status > /dev/null 2>&1; do
        turns=$((turns + 1))
        [ "$turns" -le 60 ] || die 1 'the guard does not answer'
        sleep 1
    done
    shoal-agent enroll "$join"
    code=$?
    case $code in
    0) ;;
    4) say 'no controller answered yet: the agent goes on asking' ;;
    *) die 1 "this device could not be enrolled (shoal-agent enroll ended with $code)" ;;
    esac
    if has_systemd; then
        systemctl enable --now shoal-agent.service || die 1 'the agent does not start: journalctl -u shoal-agent'
    else
        setsid /usr/lib/shoal/shoal-agent run < /dev/null >> /var/log/shoal/agent.log 2>&1 &
        say 'there is no systemd here: guard and agent run now; have your init start both at boot (docs/install.md)'
    fi
}

uninstall() {
    if command -v dpkg > /dev/null 2>&1 && dpkg -s shoal-agent > /dev/null 2>&1; then
        if [ "$purge" = yes ]; then verb=--purge; else verb=--remove; fi
        names=shoal-agent
        dpkg -s shoal-compiler > /dev/null 2>&1 && names='shoal-compiler shoal-agent'
        # shellcheck disable=SC2086 # names of ours, without blanks
        dpkg $verb $names || die 1 'dpkg could not remove the packages'
    elif [ -f "$FILES" ]; then
        if has_systemd; then
            systemctl disable --now shoal-agent.service shoal-guard.service || :
            systemctl stop shoal-payload.service || :
        else
            for pid in $(pidof shoal-agent 2> /dev/null); do
                [ "$(readlink "/proc/$pid/exe")" = /usr/lib/shoal/shoal-agent ] && kill "$pid"
            done
            /usr/lib/shoal/shoal-guard stop-all || :
        fi
        while read -r file; do
            case $file in
            etc/* | */) ;;
            *) rm -f "/$file" ;;
            esac
        done < "$FILES"
        if [ "$purge" = yes ]; then
            while read -r file; do
                case $file in
                etc/*[!/]) rm -f "/$file" ;;
                esac
            done < "$FILES"
        fi
        rm -f "$FILES"
        rm -rf /usr/lib/shoal /usr/share/doc/shoal-agent /usr/share/doc/shoal-compiler
        has_systemd && systemctl daemon-reload
    else
        die 1 'there is no shoal-agent here'
    fi
    if [ "$purge" = yes ]; then
        rm -rf /var/lib/shoal /var/log/shoal /run/shoal /etc/shoal
        say 'removed, with all that it kept'
    else
        say 'removed; identity, documents and volumes stay in /var/lib/shoal (--purge removes them)'
    fi
}

# --- What was asked for.

hex_of() {
    text=$(printf %s "${1#sha256:}" | tr 'A-F' 'a-f' | tr -d ':')
    case $text in
    *[!0-9a-f]*) die 2 "$1 is no SHA-256" ;;
    esac
    [ ${#text} -eq 64 ] || die 2 "$1 is no SHA-256: 64 digits are wanted"
    say "$text"
}

only=no compiler=auto key='' fingerprint='' sums='' join='' remove=no purge=no work='' destdir='' machine=''
while [ $# -gt 0 ]; do
    case $1 in
    --key | --fingerprint | --sums | --join | --destdir | --machine) [ $# -ge 2 ] || die 2 "$1 needs a value" ;;
    esac
    case $1 in
    --check-only) only=yes ;;
    --with-compiler) compiler=yes ;;
    --without-compiler) compiler=no ;;
    --key) key=$2 && shift ;;
    --fingerprint) fingerprint=$(hex_of "$2") || exit 2 && shift ;;
    --sums) sums=$(hex_of "$2") || exit 2 && shift ;;
    --join) join=$2 && shift ;;
    --destdir) destdir=$2 && shift ;;
    --machine) machine=$2 && shift ;;
    --uninstall) remove=yes ;;
    --purge) purge=yes ;;
    --list-checks)
        for check in $CHECKS $RELEASE_CHECKS; do say "$check"; done
        exit 0
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) die 2 "$1 is not known here; see --help" ;;
    esac
    shift
done
[ -z "$key" ] || [ -r "$key" ] || die 2 "cannot read the key $key"
[ -z "$join" ] || [ -r "$join" ] || die 2 "cannot read the join file $join"
[ -z "$destdir$machine" ] || [ "$only$remove$join" = nono ] || die 2 '--destdir goes with packages and their verification only'
[ -z "$machine" ] || [ -n "$destdir" ] || die 2 '--machine goes with --destdir'
[ "$purge" = no ] || [ "$remove" = yes ] || die 2 '--purge goes with --uninstall'
here=$(cd "$(dirname "$0")" && pwd) || exit 1

if [ "$only" = yes ]; then
    check_machine
    for file in "$here"/shoal-agent[_-]*; do
        if [ -f "$file" ]; then
            check_release || :
            break
        fi
    done
    [ "$failed" -eq 0 ] || exit 4
    exit 0
fi
if [ -n "$destdir" ]; then
    [ -n "$sums$key$fingerprint" ] || die 2 "$HOW"
    check_release || :
    [ "$failed" -eq 0 ] || exit 4
    unpack_into
    exit 0
fi
[ "$(id -u)" = 0 ] || die 2 'only root can install or remove'
if [ "$remove" = yes ]; then
    uninstall
    exit 0
fi
if [ -z "$sums$key$fingerprint" ]; then
    die 2 "$HOW"
fi
check_machine
check_release || :
if [ "$failed" -ne 0 ]; then
    say 'nothing was installed'
    exit 4
fi
if [ "$way" = deb ]; then install_debs; else install_tars; fi
if ! shoal-agent --version || ! shoal-guard --version; then
    die 1 'what was installed does not start'
fi
[ -z "$join" ] || start_and_join
if [ "$warned" -ne 0 ]; then
    say "installed; $warned of the checks above should be looked at"
else
    say 'installed'
fi
