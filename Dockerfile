# What a release has for a machine, and nothing else. Beside this file lies the
# release's tarball, or make dist has made it.
#
#   docker build -t aysfs .
#   docker build -t aysfs --build-arg RELEASE=aysfs_1.2.3_arm64.tar.gz .
#
# The README says how it is run.
FROM scratch AS release
ARG RELEASE=dist/aysfs_*_ubuntu64.tar.gz
ADD $RELEASE /

FROM scratch
COPY --from=release /aysfs_*/rootfs/ /
# Where the cache server writes is that of nobody, who it runs as. Without a shell, a
# directory gets an owner by a file that comes with it.
COPY --from=release --chown=65534:65534 /aysfs_*/LICENSE /var/lib/ays_cache/
HEALTHCHECK --interval=30s --timeout=15s --start-period=1m CMD ["/usr/bin/ays", "health"]
ENTRYPOINT ["/usr/sbin/aysfs"]
# What serves may die, and the mounts go on.
CMD ["supervise"]
