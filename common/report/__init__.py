"""What both reports share: a page's shell, style and script, and charts as SVG.

Each is one HTML page without other files. Text from files (names, reasons, ids) reaches the page in
two safe ways: through Jinja, which escapes it, or as JSON in a block that is not executed, from
which the script adds it as text. A content security policy forbids everything else, including the
network.
"""
