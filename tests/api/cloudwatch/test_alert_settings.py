"""The grammar of `vnotch server --alert`: what it means, and what it refuses."""

from __future__ import annotations

import pytest

from vnotch.api.cloudwatch.alert_settings import flow_alerts
from vnotch.errors import InputError
from vnotch.store.flow_alerts import FlowAlert


def test_a_setting_names_kind_log_group_bounds_and_url() -> None:
    url = "https://example.com/hook?a=b,c=d"
    (alert,) = flow_alerts([f"rejects,log-group=/vnotch/lab/all,count=10,seconds=30,by=all={url}"])
    text = "rejects,log-group=/vnotch/lab/all,count=10,seconds=30,by=all"
    assert alert == FlowAlert("rejects", "/vnotch/lab/all", text, (url,), 30, 10, by_source=False)


def test_what_is_left_out_has_a_default() -> None:
    settings = [f"{kind},log-group=flow=http://127.0.0.1/" for kind in ("rejects", "port-scan", "new-listener")]
    assert [alert.text for alert in flow_alerts(settings)] == [
        "rejects,log-group=flow,count=100,seconds=60,by=source",
        "port-scan,log-group=flow,ports=20,seconds=600",
        "new-listener,log-group=flow,seconds=600,days=7",
    ]


def test_the_same_alert_for_two_urls_is_one_alert() -> None:
    settings = [f"rejects,log-group=flow{more}=https://example.com/{more}" for more in ("", ",count=100", "")]
    (alert,) = flow_alerts(settings)
    assert alert.urls == ("https://example.com/", "https://example.com/,count=100")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("", "does not end in =URL"),
        ("rejects", "does not end in =URL"),
        ("rejects,log-group=flow", "does not end in =URL"),
        ("rejects,log-group=flow=ftp://example.com/", "alert URL 'ftp://example.com/'"),
        ("rejects,log-group=flow=https://", "alert URL 'https://'"),
        ("rejects,log-group=flow=https://user:word@example.com/", "alert URL"),
        ("rejects,log-group=flow=arn:aws:sns:us-east-1:123456789012:ops", "alert URL"),
        ("burst,log-group=flow=https://example.com/", "alert kind 'burst'"),
        ("rejects=https://example.com/", "log-group ''"),
        ("rejects,log-group=a b=https://example.com/", "log-group 'a b'"),
        ("rejects,log-group=flow,ports=3=https://example.com/", "'ports' is not known"),
        ("port-scan,log-group=flow,by=all=https://example.com/", "'by' is not known"),
        ("rejects,log-group=flow,count=1,count=2=https://example.com/", "'count' is given twice"),
        ("rejects,log-group=flow,count=0=https://example.com/", "count '0'"),
        ("rejects,log-group=flow,seconds=-1=https://example.com/", "seconds '-1'"),
        ("rejects,log-group=flow,seconds=3601=https://example.com/", "seconds '3601'"),
        ("new-listener,log-group=flow,days=1.5=https://example.com/", "days '1.5'"),
        ("rejects,log-group=flow,by=destination=https://example.com/", "by 'destination'"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(setting: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        flow_alerts([setting])
    assert said in str(refused.value)


def test_too_many_alerts_are_refused() -> None:
    with pytest.raises(InputError, match="51 alerts"):
        flow_alerts(f"rejects,log-group=g{number}=https://example.com/" for number in range(51))
