// Package policy says which device a client certificate belongs to. ../../README.md is the specification.
package policy

import (
	"encoding/hex"
	"fmt"
	"strings"

	"go.bytecodealliance.org/pkg/wit/types"
	"wit_component/mqgate_plugin_certificates"
	"wit_component/mqgate_plugin_connections"
	"wit_component/mqgate_plugin_types"
)

type (
	connection  = mqgate_plugin_connections.Connection
	certificate = mqgate_plugin_certificates.Certificate
	generalName = mqgate_plugin_certificates.GeneralName
)

// Field is where a value stands in a certificate.
type Field string

const (
	SanUri       Field = "san.uri"
	CommonName   Field = "cn"
	SanDns       Field = "san.dns"
	SerialNumber Field = "serial-number"
	Serial       Field = "serial"
	Organization Field = "o"
	Unit         Field = "ou"
)

const (
	uriPrefix    = "urn:device:"
	longestValue = 256
)

// names is where a device id is looked for. A serial number every certificate has.
var names = []Field{SanUri, CommonName, SanDns, SerialNumber, Serial}

var subjectOids = map[Field]string{
	CommonName:   "2.5.4.3",
	SerialNumber: "2.5.4.5",
	Organization: "2.5.4.10",
	Unit:         "2.5.4.11",
}

// Refusal is a no to the client.
type Refusal struct {
	reason mqgate_plugin_types.ConnackReason
	detail string
}

func (r *Refusal) Error() string { return r.detail }

func (r *Refusal) Denial() mqgate_plugin_types.Denial {
	return mqgate_plugin_types.Denial{Reason: r.reason, AuditDetail: wit_types.Some(r.detail)}
}

func refuse(format string, values ...any) error {
	return &Refusal{mqgate_plugin_types.ConnackReason_NotAuthorized, fmt.Sprintf(format, values...)}
}

// Trusted is the certificate, if a trust anchor vouches for what it says.
func Trusted(on connection) (certificate, bool) {
	if on.Certificate.IsNone() {
		return certificate{}, false
	}
	client := on.Certificate.Some()
	return client.Leaf, client.Chain.Tag() == mqgate_plugin_certificates.ChainStatus_Verified
}

// Identify says whose certificate it is.
func Identify(on connection, leaf certificate) (mqgate_plugin_types.Identity, error) {
	var nobody mqgate_plugin_types.Identity
	if leaf.IsCa {
		return nobody, refuse("the certificate is that of a CA")
	}
	source, deviceId, err := deviceId(leaf)
	if err != nil {
		return nobody, err
	}
	who := mqgate_plugin_types.Identity{
		DeviceId:   deviceId,
		Tags:       []string{fmt.Sprintf("x509-v%d", leaf.Version)},
		Attributes: []mqgate_plugin_types.Attribute{Text("cert.source", string(source))},
	}
	tenant, found, err := OneValue(Organization, leaf)
	if err != nil {
		return nobody, err
	}
	if found {
		who.Tenant = wit_types.Some(tenant)
	}
	if err := CheckSession(on, deviceId); err != nil {
		return nobody, err
	}
	return who, nil
}

// deviceId is the field that names the device, and its name. A field that cannot be used ends the search: a
// certificate must not choose by which of its names it is known.
func deviceId(leaf certificate) (Field, string, error) {
	for _, field := range names {
		if value, found, err := OneValue(field, leaf); found || err != nil {
			return field, value, err
		}
	}
	return "", "", refuse("the certificate names no device")
}

// OneValue is the value of a field that must not be ambiguous, fit to be a name and a topic level, if there is one.
func OneValue(field Field, leaf certificate) (value string, found bool, err error) {
	values, readable := valuesOf(field, leaf)
	switch {
	case !readable:
		return "", false, refuse("%s of the certificate is not plain text", field)
	case len(values) == 0:
		return "", false, nil
	case len(values) > 1:
		return "", false, refuse("the certificate has %d values for %s", len(values), field)
	}
	if why := unfit(values[0]); why != "" {
		return "", false, refuse("%s of the certificate %s", field, why)
	}
	return values[0], true, nil
}

func valuesOf(field Field, leaf certificate) (values []string, readable bool) {
	switch field {
	case Serial:
		return []string{hex.EncodeToString(leaf.Serial)}, true
	case SanDns:
		return altNames(leaf, mqgate_plugin_certificates.GeneralName_Dns, generalName.Dns)
	case SanUri:
		uris, readable := altNames(leaf, mqgate_plugin_certificates.GeneralName_Uri, generalName.Uri)
		for _, uri := range uris {
			if id, isDevice := strings.CutPrefix(uri, uriPrefix); isDevice {
				values = append(values, id)
			}
		}
		return values, readable
	}
	for _, attribute := range leaf.Subject.Attributes {
		if attribute.Oid != subjectOids[field] {
			continue
		}
		// The broker promises text without controls; who decides on it looks once more.
		if attribute.Text.IsNone() || strings.ContainsFunc(attribute.Text.Some(), isControl) {
			return nil, false
		}
		values = append(values, attribute.Text.Some())
	}
	return values, true
}

// altNames are the alternative names of one kind. A malformed name could be of any kind, so it spoils every kind.
func altNames(leaf certificate, kind uint8, text func(generalName) string) (values []string, readable bool) {
	for _, name := range leaf.SubjectAltNames {
		switch name.Tag() {
		case mqgate_plugin_certificates.GeneralName_Malformed:
			return nil, false
		case kind:
			if strings.ContainsFunc(text(name), isControl) {
				return nil, false
			}
			values = append(values, text(name))
		}
	}
	return values, true
}

// unfit says why a value is no plain level of a topic; nothing if it is one.
func unfit(value string) string {
	if value == "" {
		return "is empty"
	}
	if len(value) > longestValue {
		return fmt.Sprintf("is longer than %d bytes", longestValue)
	}
	if at := strings.IndexAny(value, "/+#$"); at >= 0 {
		return "holds " + value[at:at+1]
	}
	if strings.ContainsFunc(value, isInvisible) {
		return "holds a control or invisible character"
	}
	return ""
}

func isControl(r rune) bool {
	return r <= 0x1f || r >= 0x7f && r <= 0x9f
}

func isInvisible(r rune) bool {
	switch {
	case isControl(r), r == 0xad, r == 0x61c, r == 0x180e, r == 0xfeff:
		return true
	case r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2060 && r <= 0x206f, r >= 0xfff9 && r <= 0xfffb:
		return true
	}
	return false
}

// CheckSession says whether a device may open a session with the client id of this connection.
func CheckSession(on connection, deviceId string) error {
	if why := unfit(deviceId); why != "" {
		return refuse("the device id %s", why)
	}
	// Otherwise `a` could take the sessions of `a:b`.
	if strings.Contains(deviceId, ":") {
		return refuse("the device id holds :")
	}
	clientId := on.Connect.ClientId
	if clientId == "" || clientId == deviceId || strings.HasPrefix(clientId, deviceId+":") {
		return nil
	}
	return &Refusal{
		mqgate_plugin_types.ConnackReason_ClientIdentifierNotValid,
		"the client id does not belong to the device",
	}
}

// Text is an attribute with a text.
func Text(name, value string) mqgate_plugin_types.Attribute {
	return mqgate_plugin_types.Attribute{Name: name, Value: mqgate_plugin_types.MakeValueText(value)}
}
