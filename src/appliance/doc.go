// Package appliance holds the tests that need a machine: what is released is
// booted in virtual machines, run in containers, installed and upgraded as
// packages. Nothing else is in it.
//
// They take minutes and want programs that few machines have, so they are built
// with the tag appliance alone, and are run by make test-appliance, which
// installs those programs. Their names begin with TestAppliance. Others of that
// name and tag, which need no more than a mount but too much time for every run,
// lie in package e2e beside what they have in common with.
//
// What is large and comes from Debian (a kernel, a root file system) is kept in
// the user's cache directory from one run to the next, and made anew where it is
// missing.
package appliance
