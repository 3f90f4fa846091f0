#!/bin/busybox sh
# A root shell for whoever drives this virtual device, on a port of its own. What it is told, and answers:
#   run ID SIZE SECONDS, then SIZE bytes: a script; answer: @end ID CODE OUT ERR, then OUT and ERR bytes of output
#   put ID SIZE PATH, then SIZE bytes: a file; answer: @end ID CODE 0 0
export PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C SYSTEMD_PAGER= SYSTEMD_COLORS=0
n=0
while set -- /dev/vport*p1; [ ! -c "$1" ] && [ $n -lt 600 ]; do
    sleep 0.1
    n=$((n + 1))
done
exec 3<> "$1"
cd /root
echo "@ready" >&3
while IFS=' ' read -r verb id size rest <&3; do
    case "$verb" in
    run)
        head -c "$size" <&3 > /run/lab.cmd
        # By their paths: busybox has commands of its own, a dpkg among them.
        /usr/bin/timeout -s KILL "$rest" /usr/bin/dash /run/lab.cmd > /run/lab.out 2> /run/lab.err < /dev/null 3>&-
        code=$?
        echo "@end $id $code $(stat -c %s /run/lab.out) $(stat -c %s /run/lab.err)" >&3
        cat /run/lab.out /run/lab.err >&3
        ;;
    put)
        head -c "$size" <&3 > "$rest"
        echo "@end $id $? 0 0" >&3
        ;;
    esac
done
