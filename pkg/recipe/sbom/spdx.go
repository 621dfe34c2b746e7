package sbom

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// MediaType is that of the encoded document.
const MediaType = "application/spdx+json"

// namespace is what documents' names are unique below. It need not be an
// address where they are (SPDX 2.3, 6.5).
const namespace = "https://github.com/sandboxlabs/sandbox/spdx/"

// imageID is the element that stands for the image.
const imageID = common.ElementID("Image")

// SPDX encodes the document as SPDX 2.3 JSON: the same document gives the same
// bytes. Its namespace is made of its content.
func (d Document) SPDX() []byte {
	doc := d.spdx()
	data := encode(doc)
	sum := sha256.Sum256(data)
	doc.DocumentNamespace = namespace + escape(doc.DocumentName) + "-" + hex.EncodeToString(sum[:16])
	return encode(doc)
}

func encode(doc *v2_3.Document) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	// It holds nothing that JSON cannot: every string was made valid.
	if err := e.Encode(doc); err != nil {
		panic(fmt.Sprintf("encode SPDX: %v", err))
	}
	return b.Bytes()
}

func (d Document) spdx() *v2_3.Document {
	tool := firstOf(clean(d.About.Tool, 100), "sandbox")
	doc := &v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName: firstOf(clean(d.About.Name, 200), "image"),
		CreationInfo: &v2_3.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: tool}},
			Created:  d.About.Created.UTC().Format(time.RFC3339),
		},
		Packages: []*v2_3.Package{d.image()},
	}
	if len(d.Skipped) > 0 {
		doc.DocumentComment = skippedIntro + strings.Join(d.Skipped, "\n")
	}
	doc.Relationships = append(doc.Relationships, relation("DOCUMENT", common.TypeRelationshipDescribe, imageID))
	ids := map[string]common.ElementID{}
	for _, p := range d.Packages {
		ids[p.PURL] = p.id()
	}
	for _, p := range d.Packages {
		doc.Packages = append(doc.Packages, p.spdx())
		doc.Relationships = append(doc.Relationships, relation(imageID, common.TypeRelationshipContains, p.id()))
		for _, dep := range p.DependsOn {
			if id, ok := ids[dep]; ok && id != p.id() {
				doc.Relationships = append(doc.Relationships, relation(p.id(), common.TypeRelationshipDependsOn, id))
			}
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(d.Texts)) {
		doc.OtherLicenses = append(doc.OtherLicenses, &v2_3.OtherLicense{
			LicenseIdentifier: ref, LicenseName: strings.TrimPrefix(ref, refPrefix), ExtractedText: d.Texts[ref],
		})
	}
	return doc
}

// skippedIntro begins the document's comment.
const skippedIntro = "These files could not be read:\n"

func relation(from common.ElementID, kind string, to common.ElementID) *v2_3.Relationship {
	return &v2_3.Relationship{
		RefA: common.DocElementID{ElementRefID: from}, RefB: common.DocElementID{ElementRefID: to}, Relationship: kind,
	}
}

// image is the package that contains all others.
func (d Document) image() *v2_3.Package {
	p := &v2_3.Package{
		PackageName: firstOf(clean(d.About.Name, 200), "image"), PackageSPDXIdentifier: imageID,
		PackageVersion: clean(d.About.Version, 128), PackageDownloadLocation: noAssertion,
		PackageLicenseConcluded: noAssertion, PackageLicenseDeclared: firstOf(d.About.Licence, noAssertion),
		PackageCopyrightText: noAssertion, PrimaryPackagePurpose: "CONTAINER",
	}
	if d.About.Digest != "" {
		p.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: d.About.Digest.Encoded()}}
		p.PackageExternalReferences = reference(purl("oci", "", p.PackageName, d.About.Digest.String()))
	}
	return p
}

func reference(purl string) []*v2_3.PackageExternalReference {
	return []*v2_3.PackageExternalReference{{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl}}
}

// id is made of what a package is: it stays the same in another image.
func (p Package) id() common.ElementID {
	sum := sha256.Sum256([]byte(p.PURL))
	name := strings.Trim(notInRef.ReplaceAllString(p.Name, "-"), "-")
	return common.ElementID(fmt.Sprintf("%s-%s-%s", p.Type, name[:min(len(name), 80)], hex.EncodeToString(sum[:6])))
}

func (p Package) spdx() *v2_3.Package {
	s := &v2_3.Package{
		PackageName: p.Name, PackageSPDXIdentifier: p.id(), PackageVersion: p.Version,
		PackageDownloadLocation: noAssertion, PackageHomePage: p.Homepage,
		PackageLicenseConcluded: noAssertion, PackageLicenseDeclared: cmp.Or(p.Licence, noAssertion),
		PackageCopyrightText: noAssertion, PackageExternalReferences: reference(p.PURL),
		PackageSourceInfo: sourceIntro + strings.Join(p.Found, ", "),
	}
	if p.Supplier != "" {
		s.PackageSupplier = &common.Supplier{SupplierType: "Organization", Supplier: supplier(p.Supplier)}
	}
	return s
}

// sourceIntro begins a package's source information.
const sourceIntro = "found in "

// supplier writes an address as SPDX does: NAME (EMAIL).
func supplier(s string) string { return strings.NewReplacer(" <", " (", ">", ")").Replace(s) }

// Parse reads what SPDX has written. Of documents that others made it reads the
// packages and their licences.
func Parse(data []byte) (Document, error) {
	// Without the methods of the type: its UnmarshalJSON panics at a package that
	// is null.
	type document v2_3.Document
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		return Document{}, fmt.Errorf("parse SPDX document: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if !strings.HasPrefix(doc.SPDXVersion, "SPDX-2.") {
		return Document{}, fmt.Errorf("parse SPDX document: version %q is not known: %w", doc.SPDXVersion, errdefs.ErrInvalidArgument)
	}
	d := Document{About: About{Name: doc.DocumentName}, Texts: map[string]string{}}
	if info := doc.CreationInfo; info != nil {
		d.About.Created, _ = time.Parse(time.RFC3339, info.Created)
		for _, c := range info.Creators {
			if c.CreatorType == "Tool" {
				d.About.Tool = c.Creator
			}
		}
	}
	if lines, ok := strings.CutPrefix(doc.DocumentComment, skippedIntro); ok {
		d.Skipped = strings.Split(lines, "\n")
	}
	byID := map[common.ElementID]int{}
	for _, p := range doc.Packages {
		if p == nil {
			continue
		}
		if p.PackageSPDXIdentifier == imageID {
			d.About.fromImage(p)
			continue
		}
		byID[p.PackageSPDXIdentifier] = len(d.Packages)
		d.Packages = append(d.Packages, parsePackage(p))
	}
	for _, r := range doc.Relationships {
		if r == nil {
			continue
		}
		from, ok := byID[r.RefA.ElementRefID]
		to, ok2 := byID[r.RefB.ElementRefID]
		if ok && ok2 && r.Relationship == common.TypeRelationshipDependsOn {
			d.Packages[from].DependsOn = append(d.Packages[from].DependsOn, d.Packages[to].PURL)
		}
	}
	for _, l := range doc.OtherLicenses {
		if l != nil {
			d.Texts[l.LicenseIdentifier] = l.ExtractedText
		}
	}
	return d, nil
}

func (a *About) fromImage(p *v2_3.Package) {
	a.Version = p.PackageVersion
	if p.PackageLicenseDeclared != noAssertion {
		a.Licence = p.PackageLicenseDeclared
	}
	for _, c := range p.PackageChecksums {
		if c.Algorithm == common.SHA256 {
			a.Digest = digest.NewDigestFromEncoded(digest.SHA256, c.Value)
		}
	}
}

func parsePackage(s *v2_3.Package) Package {
	p := Package{Name: s.PackageName, Version: s.PackageVersion, Homepage: s.PackageHomePage}
	for _, licence := range []string{s.PackageLicenseDeclared, s.PackageLicenseConcluded} {
		if p.Licence == "" && licence != noAssertion && licence != "NONE" {
			p.Licence = licence
		}
	}
	if s.PackageSupplier != nil && s.PackageSupplier.Supplier != noAssertion {
		p.Supplier = strings.NewReplacer(" (", " <", ")", ">").Replace(s.PackageSupplier.Supplier)
	}
	for _, r := range s.PackageExternalReferences {
		if r != nil && r.RefType == common.TypePackageManagerPURL {
			p.PURL = r.Locator
			p.Type, _, _ = strings.Cut(strings.TrimPrefix(r.Locator, "pkg:"), "/")
		}
	}
	if found, ok := strings.CutPrefix(s.PackageSourceInfo, sourceIntro); ok {
		p.Found = strings.Split(found, ", ")
	}
	return p
}
