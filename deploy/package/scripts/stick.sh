#!/bin/sh
# Takes the bundles at the top of a stick: mounted read-only, read as the agent's user. What comes of it goes to the journal.
# Started by shoal-stick@.service; run in a folder of its own.
set -eu
device=$1
agent=${SHOAL_AGENT:-/usr/lib/shoal/shoal-agent}

mkdir -p stick
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
"$agent" sideload --unattended stick
