"""When and where: Prefect flows, the one door through which every stage is run, and the `olmoearth` command."""
