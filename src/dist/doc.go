// Dist makes the files of a release as goreleaser.yaml describes them, with Go
// alone: a tarball and the packages for every architecture, a bill of materials
// (SBOM) for every tarball, and checksums.txt. From one commit it makes the same
// bytes, wherever and whenever.
//
//	dist -version 1.2.3 -commit 0123456789ab -date 2026-01-02T03:04:05Z -to dist
//	dist -version 1.2.3 -sbom aysfs_1.2.3_ubuntu64.tar.gz -to FILE
//
// The second form is what goreleaser has the bills made by. A tarball holds
//
//	aysfs_1.2.3_ubuntu64/LICENSE, README.md
//	                     init/…    scripts and units, for whichever init there is
//	                     rootfs/…  what is laid over an image, programs included
package main
