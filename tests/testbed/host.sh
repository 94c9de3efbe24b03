#!/bin/sh
# The first process of a host, in namespaces of its own: gives it its name and its view of the files, then is its sshd.
#   host.sh NAME HOSTS SSHD_CONFIG [ro|rw FROM TO]...
# HOSTS becomes /etc/hosts; each FROM is seen at TO, in the order given.
set -eu
name=$1 hosts=$2 sshd_config=$3
shift 3

hostname "$name"
ip link set lo up
mount --bind "$hosts" /etc/hosts
while [ $# -gt 0 ]; do
  mkdir -p "$3"
  mount --rbind "$2" "$3"
  [ "$1" = rw ] || mount -o remount,bind,ro "$3"
  shift 3
done
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd /run/sys

# Statistics of network cards are those of the namespace that mounted /sys; control groups lie below it.
mount -t sysfs sysfs /run/sys
mount --rbind /sys/fs/cgroup /run/sys/fs/cgroup
mount --rbind /run/sys /sys

exec /usr/sbin/sshd -D -e -f "$sshd_config"
