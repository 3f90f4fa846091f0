# Runs inside a foreign user land, in mount and process namespaces of its own: installs the packages beside it, runs a device
# from them, and takes them away again. Every line must succeed; the last word says that all did.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
say() { echo "trial: $*"; }
here=/tmp/shoal-trial
device=$here/device
say "$(. /etc/os-release; echo "$PRETTY_NAME"), $(ldd --version 2> /dev/null | head -n 1)"
dpkg -i $here/*.deb > $here/dpkg.log 2>&1 || { cat $here/dpkg.log; exit 1; }
shoal-agent --version
shoal-guard --version
lib=/usr/lib/shoal/engine/run/lib
say "engine: $($lib/ld-linux-*.so.* --library-path $lib /usr/lib/shoal/shoal-runner engine)"

mkdir -p $device/etc/shoal
printf 'uid_base = 75000\ncgroup_parent = "shoal-trial-%s"\nlocal_unsigned = true\n' "$1" > $device/etc/shoal/policy.toml
shoal-guard supervise --root $device > $here/guard.log 2>&1 &
guard=$!
trap 'cat $here/guard.log; shoal-guard stop-all --root $device || true' EXIT
turns=0
until shoal-guard status --root $device > $here/status 2>&1 && [ -s $device/var/lib/shoal/supervise/cache/engine.proof ]; do
    turns=$((turns + 1))
    [ $turns -lt 600 ] || { say "the guard did not come up"; exit 1; }
    sleep 0.2
done
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
turns=0
until shoal-agent --root $device logs "$container" | grep seq=; do
    turns=$((turns + 1))
    [ $turns -lt 300 ] || { say "the container printed nothing"; exit 1; }
    sleep 0.2
done
agent_libraries=$(grep -l /usr/lib/shoal/engine/run/lib/libwasmedge /proc/[0-9]*/maps | head -n 1)
if grep -v /usr/lib/shoal "$agent_libraries" | grep '\.so'; then
    say "a process with the engine loaded these libraries of the system"
    exit 1
fi
shoal-guard stop-all --root $device
wait $guard
trap - EXIT
dpkg --purge shoal-compiler shoal-agent > $here/dpkg.log 2>&1 || { cat $here/dpkg.log; exit 1; }
left=$(find / -xdev -name '*shoal*' ! -path "$here*")
[ -z "$left" ] || { say "left behind: $left"; exit 1; }
say passed
