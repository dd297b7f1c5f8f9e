"""`chancery status`: is everything well?"""

import click

from ca.admin.context import AdminContext, ExitCode, admin_command
from ca.admin.notices import notices
from ca.admin.output import moment, print_facts, print_json, print_line, print_table
from ca.admin.status import document, look, sections


@click.command()
@admin_command
async def status(context: AdminContext) -> ExitCode:
    """Show processes, queues, issuers, OCSP, CRLs and the database; exit with 5 when something is degraded."""
    async with context.connection() as connection:
        found = await look(connection, now=context.ambient.now(), ocsp=context.settings.ocsp,
                           transparency=context.settings.ct_enabled,
                           notices=notices(context.settings, context.ambient.now()))
    if context.output == "json":
        print_json(document(found))
    else:
        for section in sections(found):
            print_line(section.title.upper())
            print_table(section.columns, section.rows)
            print_line("")
        print_facts([("looked at", moment(found.looked_at)),
                     ("status", "degraded" if found.reasons else "ok")]
                    + [("", f"degraded: {reason.text}") for reason in found.reasons])
    return ExitCode.DEGRADED if found.reasons else ExitCode.OK
