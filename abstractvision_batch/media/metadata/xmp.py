"""An XMP packet: the IPTC marking of generated media, what made them, and our JSON where a format has no place for it.

`Iptc4xmpExt` is IPTC's extension schema; its AI properties are of the 2025.1 standard.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from abstractvision_batch.errors import InvalidOutputError

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_OWN = "urn:avbatch:metadata:1#"
_PACKET = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{rdf}">
  <rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{iptc}" xmlns:xmp="{xmp}" xmlns:avbatch="{own}">
{properties}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
#: Names a manifest that is kept elsewhere: the file is signed although nothing in it says C2PA.
_REMOTE_MANIFEST = b"http://purl.org/dc/terms/"
#: What XML 1.0 cannot hold.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_packet(
    *, source_type: str, tool: str, system: str | None = None, prompt: str | None = None, json: str | None = None
) -> bytes:
    """Write a packet; equal values give equal bytes."""
    values = {
        "Iptc4xmpExt:DigitalSourceType": source_type,
        "Iptc4xmpExt:AISystemUsed": system,
        "Iptc4xmpExt:AIPromptInformation": prompt,
        "xmp:CreatorTool": tool,
        "avbatch:avbatch": None if json is None else _NO_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", json),
    }
    properties = "\n".join(
        f"   <{name}>{_escaped(value)}</{name}>" for name, value in values.items() if value is not None
    )
    return _PACKET.format(rdf=_RDF, iptc=_IPTC, xmp=_XMP, own=_OWN, properties=properties).encode()


def read_packet(packet: bytes) -> tuple[str | None, str | None]:
    """The digital source type and our JSON, each None where the packet has none.

    Raises:
        InvalidOutputError: it is no XML, or defines entities.
    """
    if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        raise InvalidOutputError("XMP: the packet defines entities")
    try:
        root = ElementTree.fromstring(packet.strip(b"\x00 \t\r\n"))
    except (ElementTree.ParseError, ValueError, LookupError) as exc:
        raise InvalidOutputError(f"XMP: {len(packet)} bytes are no XML ({exc})") from exc
    return _property(root, f"{{{_IPTC}}}DigitalSourceType"), _property(root, f"{{{_OWN}}}avbatch")


def points_to_manifest(packet: bytes) -> bool:
    """Whether the packet names a C2PA manifest kept elsewhere, whose hash of the file any change would break."""
    return _REMOTE_MANIFEST in packet and b"provenance" in packet


def _property(root: ElementTree.Element, name: str) -> str | None:
    """A simple property, which other tools may rewrite as an attribute."""
    for description in root.iter(f"{{{_RDF}}}Description"):
        if name in description.attrib:
            return description.attrib[name]
        if (element := description.find(name)) is not None:
            return element.text or ""
    return None


def _escaped(value: str) -> str:
    return escape(_NO_XML.sub("\ufffd", value), {"\r": "&#13;"})
