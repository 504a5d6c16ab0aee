#!/bin/sh
# What an operator does with /etc/init.d/aysfs, in namespaces of its own: the
# machine's files with ours laid over them. Run as init.sh SHELL DIR TOP AYSFS:
# SHELL runs the script, DIR has the config and is where the tree is mounted, TOP
# is the top of the source, AYSFS the binary.
set -eu
shell=$1 dir=$2 top=$3 aysfs=$4

mkdir "$dir/over"
mount -t tmpfs tmpfs "$dir/over"
for d in etc usr/sbin var/log; do
  mkdir -p "$dir/over/upper/$d" "$dir/over/scratch/$d"
  mount -t overlay overlay -o "lowerdir=/$d,upperdir=$dir/over/upper/$d,workdir=$dir/over/scratch/$d" "/$d"
done
mount -t tmpfs tmpfs /run
cp -a "$top/rootfs/." /
cp "$top/init/aysfs" /etc/init.d/aysfs
cp "$aysfs" /usr/sbin/aysfs
rm -f /var/log/aysfs.log

fail() {
  echo "FAILED: $*"
  cat "$dir/said" /var/log/aysfs.log 2>/dev/null || true
  exit 1
}

# want CODE WORD...: the script exits so.
want() {
  code=$1
  shift
  got=0
  $shell /etc/init.d/aysfs "$@" >"$dir/said" 2>&1 || got=$?
  [ "$got" = "$code" ] || fail "$* exits with $got, want $code"
}

says() { grep -q -- "$1" "$dir/said" || fail "is not said: $1"; }

# soon COMMAND...: succeeds within a while.
soon() {
  n=0
  until "$@" 2>/dev/null; do
    n=$((n + 1))
    [ $n -lt 300 ] || fail "never: $*"
    sleep 0.1
  done
}

want 3 status
want 0 stop
want 2 nonsense

# As it is delivered there is nothing to mount: that is said where it is wrong.
want 6 start
says '/etc/aysfs/aysfs.toml:1: mount_files: there is no mount'

cp "$dir/aysfs.toml" /etc/aysfs/aysfs.toml
want 0 start
grep -q 'hello' "$dir/mnt0/file" || fail "the mount does not answer after start"
want 0 status
want 0 start
want 0 reload
want 0 force-reload

# Another program takes over, and who holds a file open reads on.
exec 5<"$dir/mnt0/file"
cp "$aysfs" /usr/sbin/aysfs.new
mv /usr/sbin/aysfs.new /usr/sbin/aysfs
want 0 upgrade
says 'is upgraded'
grep -q hello <&5 || fail "a file that was open is lost in an upgrade"
exec 5<&-

# Whatever kills the daemon, it comes back.
supervisor=$(cat "$(dirname "$(sed -n 's/^control = "\(.*\)"/\1/p' "$dir/aysfs.toml")")/control.pid")
worker=$(pgrep -P "$supervisor")
kill -9 "$worker"
another() {
  now=$(pgrep -P "$supervisor") && [ "$now" != "$worker" ]
}
soon another
soon grep -q hello "$dir/mnt0/file"

want 0 restart
grep -q hello "$dir/mnt0/file" || fail "the mount does not answer after restart"
want 0 try-restart
want 0 stop
! grep -q "$dir/mnt" /proc/mounts || fail "stop leaves a mount"
! pgrep -x aysfs >/dev/null || fail "stop leaves a process"
want 3 status
want 7 reload
want 7 upgrade
want 0 try-restart

# Where the network is not there, start says so.
sed 's|^url = .*|url = "http://127.0.0.1:1"|; s|^path = "\(.*\)/cache"|path = "\1/empty"|' "$dir/aysfs.toml" >/etc/aysfs/aysfs.toml
want 0 start
says "$dir/mnt0: no tree yet.*127.0.0.1:1"
want 0 stop

echo '[main' >/etc/aysfs/aysfs.toml
want 6 start
says '/etc/aysfs/aysfs.toml:1'
rm /usr/sbin/aysfs
want 5 start
want 0 stop
echo "all well"
