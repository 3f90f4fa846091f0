#!/bin/sh
# Takes the bundles at the top of a stick: mounted read-only, read as the agent's user. What comes of it goes to the journal,
# and a receipt onto the stick where a bundle asks for one. Started by shoal-stick@.service; run in a folder of its own.
set -eu
device=$1
agent=${SHOAL_AGENT:-/usr/lib/shoal/shoal-agent}
root=${SHOAL_ROOT:-}

mkdir -p stick receipts
mount -t vfat,exfat,ext4,iso9660 -o ro,nosuid,nodev,noexec -- "$device" stick
trap 'umount stick' EXIT
found=
for bundle in stick/*.shoal; do
    if [ -f "$bundle" ]; then found=yes; fi
done
if [ -z "$found" ]; then
    echo "no bundle (*.shoal) at the top of $device"
    exit 0
fi
# In this order: once it is the agent's, this process may not change it any more.
chmod 0700 receipts
chown --reference="$root/var/lib/shoal/agent" receipts
code=0
"$agent" sideload --unattended --receipt receipts stick || code=$?
for receipt in receipts/*.receipt; do
    [ -f "$receipt" ] || continue
    # Only now, and only for this, is anything written to the stick.
    mount -o remount,rw,nosuid,nodev,noexec -- stick
    cp -n -- "$receipt" stick/
    sync -f stick
    mount -o remount,ro,nosuid,nodev,noexec -- stick
    echo "receipt written: ${receipt#receipts/}"
done
exit "$code"
