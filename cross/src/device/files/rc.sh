#!/bin/busybox sh
# What a small system without systemd does at boot: file systems, network, then its init scripts.
export PATH=/usr/sbin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname device
sh /usr/lib/lab/net.sh
for script in /etc/init.d/*; do
    [ ! -x "$script" ] || "$script" start
done
