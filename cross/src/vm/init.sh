#!/bin/busybox sh
# First process of a virtual device. Kernel and guard speak on the second serial port; tests and the lines that
# `cargo xtask vm` reads (they begin with "@") on the first.
/bin/busybox --install -s /bin
export PATH=/bin
if [ "$1" != moved ]; then
    # A process whose root is the initramfs itself cannot pivot_root, which every container does: stand on a mount of it.
    mount --bind / /new
    cd /new
    mount --move . /
    exec chroot . /init moved
fi
cd /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
insmod /modules/overlay.ko.xz
insmod /modules/virtio_blk.ko.xz
mke2fs -F /dev/vda > /dev/null
mkdir /disk
mount -t ext4 /dev/vda /disk
mkdir -m 1777 /disk/tmp
exec > "/dev/$RESULTS"
echo "@up $(uname -r): $(cat /sys/fs/cgroup/cgroup.controllers)"
export SHOAL_LIBEXEC=/shoal TMPDIR=/disk/tmp
while read -r name seconds; do
    echo "@start $name"
    timeout -s KILL "$seconds" "/tests/$name" --test-threads 1 < /dev/null
    echo "@end $name $?"
done < /tests/list
echo "@done"
poweroff -f
