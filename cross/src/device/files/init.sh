#!/bin/busybox sh
# First process of a virtual device, in its initramfs: loads what the kernel needs to see its disk, and goes on there.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/modules/$module"
done < /modules/order
n=0
while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do
    sleep 0.1
    n=$((n + 1))
done
mount -t ext4 -o rw /dev/vda /new
mount --move /dev /new/dev
exec switch_root /new "${INIT:-/usr/lib/systemd/systemd}"
