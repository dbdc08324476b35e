// Package export_mqgate_plugin_authorizer says what a client may do.
package export_mqgate_plugin_authorizer

import (
	"errors"

	. "go.bytecodealliance.org/pkg/wit/types"
	. "wit_component/mqgate_plugin_authorizer"
	"wit_component/mqgate_plugin_certificates"
	"wit_component/mqgate_plugin_connections"
	"wit_component/mqgate_plugin_types"
	"wit_component/policy"
)

type result = Result[Authorization, mqgate_plugin_types.HookError]

func Authorize(on mqgate_plugin_connections.Connection, who mqgate_plugin_types.Identity) result {
	return Ok[Authorization, mqgate_plugin_types.HookError](decide(on, who))
}

func decide(on mqgate_plugin_connections.Connection, who mqgate_plugin_types.Identity) Authorization {
	leaf, trusted := policy.Trusted(on)
	if !trusted {
		return MakeAuthorizationAbstain()
	}
	granted, err := grant(on, leaf, who.DeviceId)
	var refusal *policy.Refusal
	if errors.As(err, &refusal) {
		return MakeAuthorizationDeny(refusal.Denial())
	}
	return MakeAuthorizationAllow(granted)
}

func grant(
	on mqgate_plugin_connections.Connection,
	leaf mqgate_plugin_certificates.Certificate,
	deviceId string,
) (Grant, error) {
	if err := policy.CheckSession(on, deviceId); err != nil {
		return Grant{}, err
	}
	rules := []AclRule{allow(Actions_Publish|Actions_Subscribe, "devices/${device-id}/#")}
	group, found, err := policy.OneValue(policy.Unit, leaf)
	if err != nil {
		return Grant{}, err
	}
	if found {
		rules = append(rules, allow(Actions_Subscribe, "groups/"+group+"/#"))
	}
	granted := Grant{
		Acl:        MakeAclInline(rules),
		Otherwise:  Effect_Deny,
		Limits:     Limits{Subscriptions: Some[uint32](100)},
		Attributes: []mqgate_plugin_types.Attribute{policy.Text("policy.rule", "own-topics")},
	}
	if on.Connect.ProtocolLevel == 3 {
		granted.Limits.MaximumQos = Some[uint8](1)
	}
	if on.Connect.ClientId == "" {
		granted.AssignedClientId = Some(deviceId)
	}
	return granted, nil
}

func allow(actions Actions, filter string) AclRule {
	return AclRule{
		Effect:  Effect_Allow,
		Actions: actions,
		Filter:  filter,
		Qos:     QosLevels_AtMostOnce | QosLevels_AtLeastOnce | QosLevels_ExactlyOnce,
		Retain:  RetainMatch_Any,
	}
}
