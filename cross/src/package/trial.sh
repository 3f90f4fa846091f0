# Runs inside a foreign user land, in mount and process namespaces of its own: installs the packages beside it as a user would,
# runs a device from them (and a controller and the demo, if their packages are there), and takes them away again, once by dpkg
# and once without it. Every line must succeed; the last word says that all did.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
say() { echo "trial: $*"; }
# Runs something quietly; shows what it said when it fails.
quiet() {
    "$@" > "$here/said" 2>&1 || {
        cat "$here/said"
        exit 1
    }
}
# Waits until a command succeeds: how many fifths of a second at most, what for, the command.
await() {
    limit=$1 what=$2 turns=0
    shift 2
    until "$@"; do
        turns=$((turns + 1))
        [ $turns -lt "$limit" ] || {
            say "waited in vain for $what"
            exit 1
        }
        sleep 0.2
    done
}
nothing_left() {
    left=$(find / -xdev -name '*shoal*' ! -path "$here*")
    [ -z "$left" ] || {
        say "left behind: $left"
        exit 1
    }
}

here=/tmp/shoal-trial
device=$here/device
name=$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release)
say "$name, $(ldd --version 2> /dev/null | head -n 1)"
sum=$(sha256sum $here/SHA256SUMS | cut -d ' ' -f 1)
sh $here/install.sh --sums "$sum"
lib=/usr/lib/shoal/engine/run/lib
loader=$(echo $lib/ld-linux-*.so.*)
say "engine: $("$loader" --library-path $lib /usr/lib/shoal/shoal-runner engine)"

mkdir -p $device/etc/shoal
printf 'uid_base = 75000\ncgroup_parent = "shoal-trial-%s"\nlocal_unsigned = true\n' "$1" > $device/etc/shoal/policy.toml
shoal-guard supervise --root $device > $here/guard.log 2>&1 &
guard=$!
trap 'cat $here/guard.log; shoal-guard stop-all --root $device || true' EXIT
is_up() { shoal-guard status --root $device > $here/status 2>&1 && [ -s $device/var/lib/shoal/supervise/cache/engine.proof ]; }
await 600 'the guard' is_up
# Not enrolled: that alone fails.
shoal-agent --root $device doctor > $here/doctor || true
cat $here/doctor
[ "$(grep -c ^FAILED $here/doctor)" = 1 ]
shoal-agent --root $device load $here/sensor.wasm sensor:1
echo '{"metadata":{"name":"p","uid":"u","namespace":"default","attempt":1}}' > $here/pod.json
echo '{"metadata":{"name":"c"},"image":{"image":"sensor:1"},"linux":{"resources":{"memory_limit_in_bytes":33554432}}}' > $here/container.json
pod=$(shoal-agent --root $device runp $here/pod.json)
container=$(shoal-agent --root $device create "$pod" $here/container.json $here/pod.json)
shoal-agent --root $device start "$container"
prints() { shoal-agent --root $device logs "$container" | grep seq=; }
await 300 'the container to print something' prints
agent_libraries=$(grep -l /usr/lib/shoal/engine/run/lib/libwasmedge /proc/[0-9]*/maps | head -n 1)
if grep -v /usr/lib/shoal "$agent_libraries" | grep '\.so'; then
    say "a process with the engine loaded these libraries of the system"
    exit 1
fi
shoal-guard stop-all --root $device
wait $guard
trap - EXIT

if [ "$(echo $here/shoal-controller_*.deb)" != "$here/shoal-controller_*.deb" ]; then
    quiet dpkg -i $here/shoal-controller_*.deb $here/shoal_*.deb
    : > $here/shoald
    shoald run --data $here/controller --listen 127.0.0.1:0 --name 127.0.0.1 > $here/shoald 2> $here/shoald.log &
    controller=$!
    trap 'cat $here/shoald.log; kill $controller || true' EXIT
    await 150 'the controller' grep -q '^API and registry' $here/shoald
    export SHOAL_HOME=$here/operator
    login=$(grep -o 'shoal login .*' $here/shoald)
    say "$login"
    $login
    quiet shoal trust init --plain-keys
    shoal get devices
    kill $controller
    wait $controller
    unset SHOAL_HOME
    trap - EXIT
    shoal demo | tee $here/demo
    grep -q '^nothing is left' $here/demo
    quiet dpkg --purge shoal shoal-controller
fi
quiet sh $here/install.sh --uninstall --purge
nothing_left

# The same without dpkg: from the archives.
mv /usr/bin/dpkg /usr/bin/dpkg.away
sh $here/install.sh --sums "$sum" --without-compiler > $here/said 2>&1 || {
    mv /usr/bin/dpkg.away /usr/bin/dpkg
    cat $here/said
    exit 1
}
mv /usr/bin/dpkg.away /usr/bin/dpkg
shoal-agent --version
quiet sh $here/install.sh --uninstall --purge
nothing_left
say passed
