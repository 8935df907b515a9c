// Holds a log of ours against Go's own implementation of transparency logs, golang.org/x/mod/sumdb: the one that the
// formats come from. Prints, as JSON, proofs and a note of its own making, for our verifier.
//
//	reference LOG VKEY OLD < proofs.json
package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type given struct {
	Index       int64    // of the record that Inclusion is about
	Inclusion   [][]byte // in the tree of the checkpoint
	Consistency [][]byte // from OLD to the checkpoint
	OldRoot     []byte
}

type made struct {
	Size        int64
	Root        []byte
	Inclusion   [][]byte
	Consistency [][]byte
	Note, Vkey  string
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func hash(data []byte) (h tlog.Hash) {
	copy(h[:], data)
	return
}

func hashes(all [][]byte) (found []tlog.Hash) {
	for _, each := range all {
		found = append(found, hash(each))
	}
	return
}

func plain(all []tlog.Hash) (found [][]byte) {
	for _, each := range all {
		found = append(found, append([]byte{}, each[:]...))
	}
	return
}

type tiles struct{ home string }

func (t tiles) Height() int                     { return 8 }
func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (t tiles) ReadTiles(wanted []tlog.Tile) (found [][]byte, err error) {
	for _, each := range wanted {
		path := strings.Replace(each.Path(), "tile/8/", "tile/", 1)
		data, err := os.ReadFile(filepath.Join(t.home, path))
		if err != nil && each.W < 256 {
			data, err = os.ReadFile(filepath.Join(t.home, path[:strings.Index(path, ".p/")]))
		}
		if err != nil {
			return nil, err
		}
		found = append(found, data[:each.W*tlog.HashSize])
	}
	return found, nil
}

// leaf reads one record from its bundle.
func leaf(home string, index, size int64) []byte {
	width := size - index/256*256
	tile := tlog.Tile{H: 8, L: 0, N: index / 256, W: 256}
	if width < 256 {
		tile.W = int(width)
	}
	data, err := os.ReadFile(filepath.Join(home, strings.Replace(tile.Path(), "tile/8/0/", "tile/entries/", 1)))
	must(err)
	for at := int64(0); ; at++ {
		length := binary.BigEndian.Uint16(data)
		if at == index%256 {
			return data[2 : 2+length]
		}
		data = data[2+length:]
	}
}

func main() {
	home, vkey := os.Args[1], os.Args[2]
	old, err := strconv.ParseInt(os.Args[3], 10, 64)
	must(err)
	var in given
	must(json.NewDecoder(os.Stdin).Decode(&in))

	verifier, err := note.NewVerifier(vkey)
	must(err)
	signed, err := os.ReadFile(filepath.Join(home, "checkpoint"))
	must(err)
	opened, err := note.Open(signed, note.VerifierList(verifier))
	must(err)
	lines := strings.Split(opened.Text, "\n")
	if lines[0] != verifier.Name() || len(lines) != 4 {
		must(errors.New("no checkpoint"))
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	raw, err := base64.StdEncoding.DecodeString(lines[2])
	must(err)
	root := hash(raw)

	// Older versions of this reader do not check every tile that they read: so the proofs of records are checked too.
	reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, tiles{home})
	again, err := tlog.TreeHash(size, reader)
	must(err)
	if again != root {
		must(errors.New("the tiles have another root"))
	}
	for index := int64(0); index < size; index += 97 {
		proof, err := tlog.ProveRecord(size, index, reader)
		must(err)
		must(tlog.CheckRecord(proof, size, root, index, tlog.RecordHash(leaf(home, index, size))))
	}

	record := tlog.RecordHash(leaf(home, in.Index, size))
	must(tlog.CheckRecord(hashes(in.Inclusion), size, root, in.Index, record))
	must(tlog.CheckTree(hashes(in.Consistency), size, root, old, hash(in.OldRoot)))

	inclusion, err := tlog.ProveRecord(size, in.Index, reader)
	must(err)
	consistency, err := tlog.ProveTree(size, old, reader)
	must(err)
	skey, public, err := note.GenerateKey(rand.Reader, "go.example/log")
	must(err)
	signer, err := note.NewSigner(skey)
	must(err)
	text := fmt.Sprintf("go.example/log\n%d\n%s\n", size, base64.StdEncoding.EncodeToString(root[:]))
	theirs, err := note.Sign(&note.Note{Text: text}, signer)
	must(err)
	must(json.NewEncoder(os.Stdout).Encode(made{
		size, append([]byte{}, root[:]...), plain(inclusion), plain(consistency), string(theirs), public,
	}))
}
