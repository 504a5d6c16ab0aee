// Package publish turns a directory, an archive or an image into objects in a
// directory store, gives trees older heads again, mirrors trees between stores,
// removes what no head needs, and checks and mends what stores hold.
//
// Run walks the tree in name order, hashes and compresses its files side by
// side, and writes what the store lacks: blobs first, then catalogs and the
// index, the head last. Each is written under a temporary name, synced, and
// renamed, and directories are synced before the head names what is in them. So
// a publish that is cut off anywhere leaves the old head and whole objects
// behind it; what it had written already is found again by the next one.
//
// A Cache, as ays_cache is one, can be published to as well: it is asked which blobs
// it has, and puts what it gets into an Intake, which is a directory store again.
//
// A state file remembers what the files of a tree were when they were read. The
// next publish reads only those that look different since; of the others it makes
// sure that the store has their content.
//
// Beside a tree's head there may be its profile, for clients to fetch ahead by
// (package profile). It is a hint, so it is not signed; it stays when the tree gets a
// new head, and goes along when a tree is copied or its head given to another one.
//
// Locks, all of them advisory (flock), so that they vanish with their holder:
//
//	md/<tree>/.lock      one publish of a tree at a time, or whoever puts its profile
//	md/.gc               one gc of a store at a time
//	md/.lock             whoever rewrites md/trees
//	<domain>/.tmp/lock   whoever makes or clears a publish's temporary directory
//	<domain>/.tmp/sweep  shared by whoever relies on blobs that are there, exclusive for gc
//	<domain>/.tmp/*/lock held as long as the publish that made the directory lives
//
// They are taken in the order .gc, tree, .tmp; md/.lock and sweep are taken last, and
// one at a time.
package publish
