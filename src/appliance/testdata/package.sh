# What an operator does with the Debian package, in namespaces of its own: the machine's
# files with ours laid over them. Run as package.sh DIR OLD NEW: DIR has the config, of
# a tree that is mounted below it and is the directory DIR/tree; OLD and NEW are two
# versions of the package.
set -eu
dir=$1 old=$2 new=$3
export DEBIAN_FRONTEND=noninteractive

mkdir "$dir/over"
mount -t tmpfs tmpfs "$dir/over"
for d in etc usr var; do
  mkdir -p "$dir/over/upper/$d" "$dir/over/scratch/$d"
  mount -t overlay overlay -o "lowerdir=/$d,upperdir=$dir/over/upper/$d,workdir=$dir/over/scratch/$d" "/$d"
done
mount -t tmpfs tmpfs /run

fail() {
  echo "FAILED: $*"
  cat "$dir/said" "$dir/wrong" /var/log/aysfs.log 2>/dev/null || true
  exit 1
}

# quiet COMMAND...: succeeds; what it says is shown if anything fails.
quiet() { "$@" >"$dir/said" 2>&1 || fail "$*"; }

runs() { pgrep -x "aysfs|ays_cache" >/dev/null; }

# An install starts nothing, and leaves a machine that starts when it is told to.
quiet dpkg -i "$old"
! runs || fail "installing starts something"
for f in /usr/sbin/aysfs /usr/sbin/ays_cache /usr/bin/ays /etc/init.d/aysfs /etc/init.d/ays_cache /etc/logrotate.d/aysfs; do
  [ -e "$f" ] || fail "$f is not installed"
done
[ "$(stat -c '%a %U' /etc/aysfs/aysfs.toml)" = "640 root" ] || fail "the config is for all to read"
ays version | grep -q '1\.0\.0' || fail "not the old version"
cp "$dir/aysfs.toml" /etc/aysfs/aysfs.toml
quiet /etc/init.d/aysfs start
quiet /etc/init.d/ays_cache start
mount=$dir/mnt
diff -r "$dir/tree" "$mount" || fail "what is mounted is not the tree"

# Somebody works there, with a file open and his directory in it.
: >"$dir/wrong"
sh -c '
  dir=$1
  cd "$dir/mnt/sub"
  exec 3<../large
  while [ ! -e "$dir/enough" ]; do
    for f in ../*; do
      [ -d "$f" ] || cmp "$f" "$dir/tree/${f#../}" >>"$dir/wrong" 2>&1
    done
    cmp here "$dir/tree/sub/here" >>"$dir/wrong" 2>&1
    ls .. >/dev/null 2>>"$dir/wrong"
  done
  cmp - "$dir/tree/large" <&3 >>"$dir/wrong" 2>&1
' sh "$dir" &
load=$!
sleep 1

# The next version comes, and a config that was edited stays.
quiet dpkg --force-confold -i "$new"
ays version | grep -q '1\.1\.0' || fail "not the new version"
quiet /etc/init.d/aysfs status
sleep 1
cmp "$dir/aysfs.toml" /etc/aysfs/aysfs.toml || fail "an upgrade changes the config"
: >"$dir/enough"
wait $load
[ ! -s "$dir/wrong" ] || fail "an upgrade is noticed"
quiet /etc/init.d/aysfs restart
ays status | grep -q '^e2e, aysfs 1\.1\.0' || fail "does not run the new version after a restart"
diff -r "$dir/tree" "$mount" || fail "what is mounted after a restart is not the tree"

# Removed, it leaves what is the operator's, and nothing that runs.
quiet dpkg -r aysfs
! runs || fail "removing leaves a process"
! grep -q " $mount " /proc/mounts || fail "removing leaves a mount"
cmp "$dir/aysfs.toml" /etc/aysfs/aysfs.toml || fail "removing takes the config along"
[ -e /var/cache/aysfs/VERSION ] || fail "removing takes the cache along"
[ ! -e /usr/sbin/aysfs ] || fail "removing leaves the program"

# Installed once more it goes on; purged it was never there.
quiet dpkg --force-confold -i "$new"
cmp "$dir/aysfs.toml" /etc/aysfs/aysfs.toml || fail "installing it again changes the config"
quiet ays bake -rootfs / -with-data
quiet /etc/init.d/aysfs start
published=/var/lib/ays_cache/published
mkdir -p $published/md /var/lib/ays_cache/ledis
quiet dpkg -P aysfs
[ -d $published/md ] || fail "purging takes what was published along"
[ ! -e /var/lib/ays_cache/ledis ] || fail "purging leaves what is cached"
rm -rf /var/lib/ays_cache
! runs || fail "purging leaves a process"
! grep -q " $mount " /proc/mounts || fail "purging leaves a mount"
left=$(cd "$dir/over/upper" && find . ! -type c -path '*ays*')
[ -z "$left" ] || fail "purging leaves $left"

# The scripts of the other packagers, where nothing runs: as an image is built.
for call in 'postinstall 1' 'postinstall 2' 'postinstall 1.1.0' 'preremove 0' 'preremove 1' 'preremove 1.1.0' 'postremove 0' 'postremove 1' 'postremove 1.1.0'; do
  # shellcheck disable=SC2086
  set -- $call
  quiet sh "$dir/scripts/$1" "$2"
done
! runs || fail "a script starts something"
echo "all well"
